"""Selection of tokens by role, label and number, as spans of consecutive tokens of an image."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped

BLOCK = 4096  # images processed together: bounds the memory for recordings of any size


class Spans(NamedTuple):
    """Tokens [start[i], stop[i]) of image example[i], for each i."""

    example: Int64[np.ndarray, " spans"]
    start: Int64[np.ndarray, " spans"]
    stop: Int64[np.ndarray, " spans"]

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
) -> Spans:
    """The spans of the selected tokens, by image and position.

    Args:
        tokens: stored tokens of every image of the recording (0: unreadable, not selected).
        examples: the images to take; `limit` counts them in this order.
        part: (start, stop) of the selected roles within each image; stop = -1 means to its last token.
        labels: one label per stored token of the recording, image after image; needed only with `ignore`.
        ignore: labels whose tokens are left out.
        limit: the maximal number of tokens; the last image's span is cut.
    """
    examples = examples[tokens[examples] > 0]
    start = np.minimum(part[0], tokens[examples])
    stop = tokens[examples] if part[1] < 0 else np.minimum(part[1], tokens[examples])
    spans = Spans(examples, start, stop)
    if len(ignore):
        assert labels is not None and len(labels) == tokens.sum(), "one label per stored token"
        first = np.cumsum(tokens) - tokens
        blocks = [Spans(*(field[at : at + BLOCK] for field in spans)) for at in range(0, len(examples), BLOCK)]
        rest = [without(block, first, labels, ignore) for block in blocks] or [spans]
        spans = Spans(*(np.concatenate(fields) for fields in zip(*rest, strict=True)))
    if limit is not None:
        spans = at_most(spans, limit)
    filled = spans.stop > spans.start
    order = np.lexsort((spans.start, spans.example))
    return Spans(*(field[order[filled[order]]] for field in spans))


def without(
    spans: Spans,
    first: Int64[np.ndarray, " n_examples"],
    labels: Shaped[np.ndarray, " n_tokens"],
    ignore: Collection[int],
) -> Spans:
    """The spans without tokens of ignored labels; first[e] is the index of image e's first token in `labels`."""
    span, token = positions(spans)
    kept = ~np.isin(labels[first[spans.example[span]] + token], list(ignore))
    span, token = span[kept], token[kept]
    begins = np.flatnonzero((np.diff(span, prepend=-1) != 0) | (np.diff(token, prepend=-2) != 1))
    ends = np.append(begins[1:], len(span))[: len(begins)] - 1
    return Spans(spans.example[span[begins]], token[begins], token[ends] + 1)


def positions(spans: Spans) -> tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, " tokens"]]:
    """(span number, position within its image) of each selected token.

    >>> positions(Spans(np.array([7, 9]), np.array([1, 0]), np.array([3, 1])))
    (array([0, 0, 1]), array([1, 2, 0]))
    """
    lengths = spans.stop - spans.start
    span = np.repeat(np.arange(len(lengths)), lengths)
    return span, np.arange(len(span)) - np.repeat(np.cumsum(lengths) - lengths - spans.start, lengths)


def at_most(spans: Spans, limit: int) -> Spans:
    """The first `limit` tokens; the last span is cut."""
    lengths = spans.stop - spans.start
    before = np.cumsum(lengths) - lengths
    return spans._replace(stop=spans.start + np.clip(limit - before, 0, lengths))


def per_image(spans: Spans, n_examples: int) -> Int64[np.ndarray, " n_examples"]:
    """Selected tokens of each image."""
    return np.bincount(spans.example, spans.stop - spans.start, n_examples).astype(np.int64)


def per_position(spans: Spans) -> Int64[np.ndarray, " positions"]:
    """Selected tokens at each position within an image.

    >>> per_position(Spans(np.array([7, 9]), np.array([1, 0]), np.array([3, 2])))
    array([1, 2, 1])
    """
    n = int(spans.stop.max()) + 1
    return np.cumsum(np.bincount(spans.start, minlength=n) - np.bincount(spans.stop, minlength=n))[:-1]


def per_label(
    spans: Spans, tokens: Int64[np.ndarray, " n_examples"], labels: Shaped[np.ndarray, " n_tokens"]
) -> Int64[np.ndarray, " labels"]:
    """Selected tokens with each label; `tokens` and `labels` as for `select`."""
    first, counts = np.cumsum(tokens) - tokens, np.zeros(1 << 16, np.int64)
    for at in range(0, len(spans.example), BLOCK):
        block = Spans(*(field[at : at + BLOCK] for field in spans))
        span, token = positions(block)
        counts += np.bincount(labels[first[block.example[span]] + token], minlength=len(counts))
    return counts
