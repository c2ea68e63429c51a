"""The two passes of `saev probe` over training and validation tokens.

    first    every code ──▶ LatentLabelStats of all pairs, per split, labels (true, permuted) and dictionary
    second   codes of the best latents alone ──▶ the same, exactly, and the validation tokens one by one

Signals are answered between batches, as in training; the first pass goes on where it was stopped.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from saev.files import replacing
from saev.probing.counts.columns import Columns
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.data.sources import Batch, Source, Split
from saev.probing.judging.firing_tokens import FiringTokens
from saev.progress import bar
from saev.runs.signals import After, Signals

log = logging.getLogger(__name__)
EXACT = 23  # mantissa bits of a float32

Key = tuple[str, str, str]  # split, variant, dictionary


class FirstPass:
    """All pairs' statistics; `checkpoint` is one file, replaced every `save_every_s` seconds and at a signal."""

    def __init__(self, stats: Mapping[Key, LatentLabelStats], checkpoint: Path, identity: str, save_every_s: float):
        self.stats, self.checkpoint, self.identity, self.save_every_s = stats, checkpoint, identity, save_every_s
        self.done: dict[str, int] = {}  # batches of each (split, source)
        self.signals = Signals()

    def resume(self) -> None:
        """Go on from the checkpoint where there is one; ValueError where it is of other settings."""
        if not self.checkpoint.is_file():
            return
        state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        if state["identity"] != self.identity:
            raise ValueError(
                f"{self.checkpoint} belongs to other settings or data: choose another hydra.run.dir, or delete the file."
            )
        self.done = state["done"]
        for key, stats in self.stats.items():
            stats.load_state_dict(state["stats"]["/".join(key)])
        log.info("going on after %d batches", sum(self.done.values()))

    def run(self, splits: Sequence[Split], sources: Sequence[Source]) -> None:
        """Read what has not been read. Leaves by SystemExit, 128 + signal, when one ended it early; saved first."""
        saved = time.monotonic()
        self.signals.listen()
        try:
            for split, source, batch, at in walk(splits, sources, "Reading codes", self.done):
                for variant in split.variants:
                    labels, counted, _ = split.facts(variant, batch.example, batch.token)
                    for name, codes in batch.codes.items():
                        self.stats[split.name, variant, name].update(codes, labels, counted)
                self.done[place(split, source)] = at + 1
                if self.signals.pending or time.monotonic() - saved > self.save_every_s:
                    self.save()
                    self._answer()
                    saved = time.monotonic()
        finally:
            self.signals.release()

    def save(self) -> None:
        """Write the checkpoint."""
        stats = {"/".join(key): each.state_dict() for key, each in self.stats.items()}
        state: dict[str, Any] = {"identity": self.identity, "done": self.done, "stats": stats}
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.checkpoint) as file:
            torch.save(state, file)

    def _answer(self) -> None:
        received, after = self.signals.take()
        if after == After.REQUEUE:
            self.signals.leave()
        if after == After.STOP:
            log.warning("stopped; the same command with hydra.run.dir=%s goes on", self.checkpoint.parent)
            raise SystemExit(128 + (received or 0))


def second_pass(
    splits: Sequence[Split],
    sources: Sequence[Source],
    chosen: Mapping[tuple[str, str], Columns],
    new_stats: Callable[[int], LatentLabelStats],
) -> tuple[dict[Key, LatentLabelStats], dict[tuple[str, str], FiringTokens]]:
    """Exact statistics of the chosen columns of each (variant, dictionary), and their validation tokens.

    Those with no columns are left out.
    """
    chosen = {key: columns for key, columns in chosen.items() if len(columns)}
    if not chosen:
        return {}, {}
    stats = {(split.name, *key): new_stats(len(columns)) for split in splits for key, columns in chosen.items()}
    val = splits[-1]
    seen = {key: FiringTokens(len(val.images)) for key in chosen}
    for split, _, batch, _ in walk(splits, sources, "The best latents", {}):
        for variant in split.variants:
            labels, counted, image = split.facts(variant, batch.example, batch.token)
            for name, codes in batch.codes.items():
                if (variant, name) not in chosen:
                    continue
                columns = chosen[variant, name].of(codes)
                stats[split.name, variant, name].update(columns, labels, counted)
                if split is val:
                    seen[variant, name].update(columns, labels, image, counted)
    for firing in seen.values():
        firing.finish()
    return stats, seen


def place(split: Split, source: Source) -> str:
    """A name of what is read: a split by a source."""
    return "/".join((split.name, *source.names))


def walk(
    splits: Sequence[Split], sources: Sequence[Source], what: str, done: Mapping[str, int]
) -> Iterator[tuple[Split, Source, Batch, int]]:
    """Every batch but those done, and its number, with a bar."""
    jobs = [(split, source) for split in splits for source in sources]
    total = sum(source.n_batches(split) for split, source in jobs)
    with bar(what, total, sum(done.values())) as advance:
        for split, source in jobs:
            start = done.get(place(split, source), 0)
            if start < source.n_batches(split):
                for at, batch in enumerate(source.batches(split, start), start):
                    yield split, source, batch, at
                    advance(1)
