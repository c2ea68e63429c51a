"""The two passes of `saev.probe` over training and validation tokens.

    first    every code ──▶ LatentLabelStats of all pairs, per split, labels (true, permuted) and dictionary
    second   codes of the best latents alone ──▶ the same, exactly, and the validation tokens on which they fire

The first pass is saved at intervals and at a signal, and resumes where it stopped.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saev.probing.counts.columns import Columns
from saev.probing.counts.statistics import LatentLabelStats
from saev.probing.data.sources import CodeBatch, Source, Split
from saev.probing.judging.firing_tokens import FiringTokens
from saev.progress import bar
from saev.runs.resumable import Resumable

log = logging.getLogger(__name__)
EXACT = 23  # mantissa bits of a float32

Key = tuple[str, str, str]  # split, variant, dictionary


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
            done[stream_name(split, source)] = index + 1
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
    columns = {key: own for key, own in columns.items() if len(own)}
    if not columns:
        return {}, {}
    stats = {(split.name, *key): new_stats(len(own)) for split in splits for key, own in columns.items()}
    val = splits[-1]
    firing = {key: FiringTokens(len(val.images)) for key in columns}
    for split, _, batch, _ in batches(splits, sources, "The best latents", {}):
        for variant in split.variants:
            labels, counted, image = split.token_info(variant, batch.example, batch.token)
            for name, codes in batch.codes.items():
                if (variant, name) not in columns:
                    continue
                own = columns[variant, name].select(codes)
                stats[split.name, variant, name].update(own, labels, counted)
                if split is val:
                    firing[variant, name].update(own, labels, image, counted)
    for tokens in firing.values():
        tokens.finish()
    return stats, firing


def stream_name(split: Split, source: Source) -> str:
    """The key of a split read by a source."""
    return "/".join((split.name, *source.names))


def batches(
    splits: Sequence[Split], sources: Sequence[Source], description: str, done: Mapping[str, int]
) -> Iterator[tuple[Split, Source, CodeBatch, int]]:
    """Every batch but those `done`, with its index in its stream; shows a progress bar."""
    streams = [(split, source) for split in splits for source in sources]
    total = sum(source.n_batches(split) for split, source in streams)
    with bar(description, total, sum(done.values())) as advance:
        for split, source in streams:
            start = done.get(stream_name(split, source), 0)
            if start < source.n_batches(split):
                for index, batch in enumerate(source.batches(split, start), start):
                    yield split, source, batch, index
                    advance(1)
