"""Which tokens a stream takes, as runs of consecutive tokens of an image: by role, by label, by number."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

BLOCK = 4096  # images looked at together: bounds the memory, whatever the size of the dataset


class Runs(NamedTuple):
    """Tokens [start[i], stop[i]) of image example[i], for each i."""

    example: Int64[np.ndarray, " runs"]
    start: Int64[np.ndarray, " runs"]
    stop: Int64[np.ndarray, " runs"]

    @property
    def n_tokens(self) -> int:
        """Tokens selected."""
        return int((self.stop - self.start).sum())


def select(
    tokens: Int64[np.ndarray, " n_examples"],
    examples: Int64[np.ndarray, " images"],
    part: tuple[int, int],
    labels: Shaped[np.ndarray, " n_tokens"] | None = None,
    ignore: Collection[int] = (),
    limit: int | None = None,
) -> Runs:
    """The runs of the chosen images, by image and position.

    Args:
        tokens: stored tokens of every image of the dataset (0: unreadable, not selected).
        examples: the chosen images; `limit` takes them in this order.
        part: (start, stop) of the wanted roles within each image; stop = -1 means to its last token.
        labels: one label per stored token of the dataset, image after image; needed by `ignore` alone.
        ignore: labels whose tokens are left out.
        limit: at most so many tokens, the last image's run being cut.
    """
    examples = examples[tokens[examples] > 0]
    start = np.minimum(part[0], tokens[examples])
    stop = tokens[examples] if part[1] < 0 else np.minimum(part[1], tokens[examples])
    runs = Runs(examples, start, stop)
    if len(ignore):
        assert labels is not None and len(labels) == tokens.sum(), "one label per stored token"
        first = np.cumsum(tokens) - tokens
        blocks = [Runs(*(field[at : at + BLOCK] for field in runs)) for at in range(0, len(examples), BLOCK)]
        kept = [without(block, first, labels, ignore) for block in blocks] or [runs]
        runs = Runs(*(np.concatenate(fields) for fields in zip(*kept, strict=True)))
    if limit is not None:
        runs = at_most(runs, limit)
    filled = runs.stop > runs.start
    order = np.lexsort((runs.start, runs.example))
    return Runs(*(field[order[filled[order]]] for field in runs))


def without(
    runs: Runs,
    first: Int64[np.ndarray, " n_examples"],
    labels: Shaped[np.ndarray, " n_tokens"],
    ignore: Collection[int],
) -> Runs:
    """The runs cut where tokens carry an ignored label; first[e] is the place of image e's first token in `labels`."""
    run, token = positions(runs)
    kept = ~np.isin(labels[first[runs.example[run]] + token], list(ignore))
    run, token = run[kept], token[kept]
    begins = np.flatnonzero((np.diff(run, prepend=-1) != 0) | (np.diff(token, prepend=-2) != 1))
    ends = np.append(begins[1:], len(run))[: len(begins)] - 1
    return Runs(runs.example[run[begins]], token[begins], token[ends] + 1)


def positions(runs: Runs) -> tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, " tokens"]]:
    """(number of its run, position within its image) of each selected token.

    >>> positions(Runs(np.array([7, 9]), np.array([1, 0]), np.array([3, 1])))
    (array([0, 0, 1]), array([1, 2, 0]))
    """
    lengths = runs.stop - runs.start
    run = np.repeat(np.arange(len(lengths)), lengths)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths - runs.start, lengths)


def at_most(runs: Runs, limit: int) -> Runs:
    """The first runs with `limit` tokens together, the last one cut."""
    lengths = runs.stop - runs.start
    before = np.cumsum(lengths) - lengths
    return runs._replace(stop=runs.start + np.clip(limit - before, 0, lengths))


def per_image(runs: Runs, n_examples: int) -> Int64[np.ndarray, " n_examples"]:
    """Selected tokens of each image."""
    return np.bincount(runs.example, runs.stop - runs.start, n_examples).astype(np.int64)


def per_position(runs: Runs) -> Int64[np.ndarray, " positions"]:
    """Selected tokens at each position within an image.

    >>> per_position(Runs(np.array([7, 9]), np.array([1, 0]), np.array([3, 2])))
    array([1, 2, 1])
    """
    n = int(runs.stop.max()) + 1
    return np.cumsum(np.bincount(runs.start, minlength=n) - np.bincount(runs.stop, minlength=n))[:-1]


def per_label(
    runs: Runs, tokens: Int64[np.ndarray, " n_examples"], labels: Shaped[np.ndarray, " n_tokens"]
) -> Int64[np.ndarray, " labels"]:
    """Selected tokens with each label; `tokens` and `labels` as for `select`."""
    first, counts = np.cumsum(tokens) - tokens, np.zeros(1 << 16, np.int64)
    for at in range(0, len(runs.example), BLOCK):
        block = Runs(*(field[at : at + BLOCK] for field in runs))
        run, token = positions(block)
        counts += np.bincount(labels[first[block.example[run]] + token], minlength=len(counts))
    return counts
