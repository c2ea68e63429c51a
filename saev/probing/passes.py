"""The passes of `saev.probe` over codes with labels, encoded while activations are read, or read from disk.

Encoder       TokenStream ──batch──▶ sparse_codes, per dictionary ─┐
CodesOnDisk   CodeStore   ──rows───▶ codes of one dictionary ──────┴──▶ CodeBatch(codes, example, token)

first    every code ──▶ LatentLabelStats of all pairs, per split, labels (true, permuted) and dictionary; saved, and resumed
second   codes of the best latents alone ──▶ the same, exactly, and the validation tokens on which they fire
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int

from saev.codes.pairs import sparse_codes
from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.ops.sparse import SparseCodes
from saev.probing.bootstrap import FiringTokens
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.counts.table import Columns
from saev.probing.splits import Split
from saev.progress import bar
from saev.runs.resumable import Resumable
from saev.shards import TokenStream, open_stream

log = logging.getLogger(__name__)
EXACT = 23  # mantissa bits of a float32

Key = tuple[str, str, str]  # split, variant, dictionary


class CodeBatch(NamedTuple):
    """Codes of a batch of tokens by dictionary, and the images and positions of the tokens."""

    codes: Mapping[str, SparseCodes]
    example: Int[np.ndarray, " tokens"]
    token: Int[np.ndarray, " tokens"]


@runtime_checkable
class Source(Protocol):
    """A reader of codes; `names` are its dictionaries."""

    names: tuple[str, ...]

    def n_batches(self, split: Split) -> int: ...

    def batches(self, split: Split, start: int) -> Iterator[CodeBatch]:
        """The batches of a split from number `start` on, the same ones in every call."""
        ...


class Encoder:
    """Dictionaries that encode activations while these are read, once for all of them; at most the `topk` largest codes."""

    def __init__(self, dictionaries: Mapping[str, Dictionary], batch_size: int, topk: int | None):
        self.names, self.dictionaries, self.batch_size, self.topk = tuple(dictionaries), dictionaries, batch_size, topk
        self.while_waiting: Callable[[], None] | None = (
            None  # called while tokens are read, so that signals are answered
        )

    def n_batches(self, split: Split) -> int:
        return self._stream(split).n_batches

    @torch.inference_mode()
    def batches(self, split: Split, start: int) -> Iterator[CodeBatch]:
        stream = self._stream(split)
        device = next(iter(self.dictionaries.values())).atoms.device
        stream.while_waiting = self.while_waiting
        for batch in stream.batches(start, stream.n_batches):
            x = torch.from_numpy(batch["acts"]).to(device).float()
            codes = {name: sparse_codes(one, x, self.topk) for name, one in self.dictionaries.items()}
            yield CodeBatch(codes, batch["example"], batch["token"])

    def _stream(self, split: Split) -> TokenStream:
        return open_stream(split.store, split.layer, self.batch_size, split.images, split.tokens)


class CodesOnDisk:
    """One dictionary's codes that `saev encode` wrote."""

    def __init__(self, name: str, codes: CodeStore, batch_size: int, device: str):
        self.names, self.codes, self.batch_size, self.device = (name,), codes, batch_size, device

    def check(self, split: Split) -> None:
        """ValueError where these codes are not of the split's activations, or lack images of it."""
        codes, expected = self.codes.manifest, split.store.manifest.fingerprint
        if codes.dataset["fingerprint"] != expected or codes.layer != split.layer or codes.tokens != split.tokens:
            raise ValueError(
                f"{self.codes.root} has codes of {codes.dataset['name']}, layer {codes.layer}, tokens={codes.tokens}; the "
                f"{split.name} tokens are of {split.store.name}, layer {split.layer}, tokens={split.tokens}: encode these."
            )
        absent = np.setdiff1d(split.images, self.codes.spans.example)
        if len(absent):
            raise ValueError(
                f"{self.codes.root} has no codes of {len(absent)} of the {split.name} images: encode with examples=all."
            )

    def n_batches(self, split: Split) -> int:
        return -(-len(self.codes) // self.batch_size)

    def batches(self, split: Split, start: int) -> Iterator[CodeBatch]:
        for first in range(start * self.batch_size, len(self.codes), self.batch_size):
            last = min(first + self.batch_size, len(self.codes))
            codes = SparseCodes(*(part.to(self.device) for part in self.codes.rows(first, last).torch()))
            yield CodeBatch({self.names[0]: codes}, *self.codes.tokens(first, last))


def l0_of_first_batch(source: Source, split: Split) -> dict[str, float]:
    """Mean number of non-zero codes per token of the first batch, by dictionary; at least 1."""
    first = next(iter(source.batches(split, 0)))
    return {name: max(1.0, len(codes.latents) / max(1, len(codes.offsets) - 1)) for name, codes in first.codes.items()}


def first_pass(
    stats: Mapping[Key, LatentLabelStats],
    splits: Sequence[Split],
    sources: Sequence[Source],
    checkpoint: Path | None,
    identity: str,
    save_every_s: float,
) -> None:
    """Count every code into `stats`. ValueError where the checkpoint has another identity; a signal saves and exits."""
    done: dict[str, int] = {}  # batches that were counted, by stream

    def state() -> dict[str, Any]:
        states = {"/".join(key): one.state_dict() for key, one in stats.items()}
        return {"identity": identity, "done": done, "stats": states}

    remedy = f"the same command with hydra.run.dir={checkpoint.parent}" if checkpoint else ""
    loop = Resumable(checkpoint, state, save_every_s, remedy)
    for source in sources:
        if isinstance(source, Encoder):
            source.while_waiting = loop.between_batches
    if (saved := loop.load()) is not None:
        if saved["identity"] != identity:
            raise ValueError(
                f"{checkpoint} belongs to other settings or data: choose another hydra.run.dir, or delete the file."
            )
        done |= saved["done"]
        for key, one in stats.items():
            one.load_state_dict(saved["stats"]["/".join(key)])
        log.info("resuming after %d batches", sum(done.values()))
    with loop:
        for split, source, batch, index in batches(splits, sources, "Reading codes", done):
            for variant in split.variants:
                labels, counted, _ = split.token_info(variant, batch.example, batch.token)
                for name, codes in batch.codes.items():
                    stats[split.name, variant, name].update(codes, labels, counted)
            done[stream_key(split, source)] = index + 1
            loop.between_batches()
    loop.save()


def second_pass(
    splits: Sequence[Split],
    sources: Sequence[Source],
    columns: Mapping[tuple[str, str], Columns],
    new_stats: Callable[[int], LatentLabelStats],
) -> tuple[dict[Key, LatentLabelStats], dict[tuple[str, str], FiringTokens]]:
    """Exact statistics of the columns of each (variant, dictionary), and the validation tokens on which they fire.

    Those without columns are left out.
    """
    columns = {key: chosen for key, chosen in columns.items() if len(chosen)}
    if not columns:
        return {}, {}
    stats = {(split.name, *key): new_stats(len(chosen)) for split in splits for key, chosen in columns.items()}
    val = splits[-1]
    firing = {key: FiringTokens(int(val.cluster.max()) + 1) for key in columns}
    for split, _, batch, _ in batches(splits, sources, "The best latents", {}):
        for variant in split.variants:
            labels, counted, image = split.token_info(variant, batch.example, batch.token)
            for name, codes in batch.codes.items():
                if (variant, name) not in columns:
                    continue
                selected = columns[variant, name].select(codes)
                stats[split.name, variant, name].update(selected, labels, counted)
                if split is val:
                    cluster = torch.from_numpy(val.cluster)[
                        image.clamp(min=0)
                    ]  # tokens of other images are not counted
                    firing[variant, name].update(selected, labels, cluster, counted)
    for tokens in firing.values():
        tokens.finish()
    return stats, firing


def stream_key(split: Split, source: Source) -> str:
    return "/".join((split.name, *source.names))


def batches(
    splits: Sequence[Split], sources: Sequence[Source], description: str, done: Mapping[str, int]
) -> Iterator[tuple[Split, Source, CodeBatch, int]]:
    """Every batch but those `done`, with its index in its stream; shows a progress bar."""
    streams = [(split, source) for split in splits for source in sources]
    total = sum(source.n_batches(split) for split, source in streams)
    with bar(description, total, sum(done.values())) as advance:
        for split, source in streams:
            start = done.get(stream_key(split, source), 0)
            if start < source.n_batches(split):
                for index, batch in enumerate(source.batches(split, start), start):
                    yield split, source, batch, index
                    advance(1)
