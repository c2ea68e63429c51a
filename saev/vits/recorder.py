"""A recording: images through a backbone at some layers, checked before it starts, resumed where it stopped."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from saev.device import check_device, resolve_device
from saev.images.source import ImageSource
from saev.locks import exclusive, part_of
from saev.shards import Manifest, RecordingWriter, fingerprint
from saev.vits.filling import Filler
from saev.vits.item import ItemLoader
from saev.vits.loading import default_workers
from saev.vits.plan import Plan, as_tuple
from saev.vits.precheck import check_disk, check_knobs, parse_part, said_by
from saev.vits.source import VitSource
from saev.vits.talking import report, say


@dataclass(kw_only=True)
class Recording:
    """Activations to be recorded (or found recorded) under `root`; the fields are the knobs of conf/record."""

    images: ImageSource
    vit: VitSource
    layers: Sequence[int] | int | None
    root: str | Path
    hook: str = "resid_post"
    tokens: Sequence[str] | str = ("patches",)
    dtype: str = "float16"
    order: str = "shuffled"
    seed: int = 0
    batch_size: int = 32
    n_workers: int | None = None
    shard_mb: float = 128
    on_error: str = "skip"
    part: str = "0/1"
    device: str = "auto"
    autocast: str | bool = "bfloat16"

    def check(self) -> None:
        """Raise ValueError, within seconds, for whatever can be known to go wrong; fetches the demo's files."""
        check_knobs(self)
        check_device(self.device, "record.device")
        parse_part(self.part)
        if not said_by(self.images.check) and self.complete():
            return  # what it was made with need not be there any more
        problems = [problem for source in (self.vit, self.images) if (problem := said_by(source.check))]
        if problems:  # both at once, so that nobody mends one to meet the other
            raise ValueError("\n".join(problems))
        check_disk(Path(self.root), self.directory(), self.plan.n_bytes)

    @cached_property
    def plan(self) -> Plan:
        """What will be recorded, without weights."""
        layers, tokens = as_tuple(self.layers), as_tuple(self.tokens)
        return Plan(self.images, self.vit, layers, tokens, self.hook, self.dtype, self.order, self.seed)

    def directory(self) -> Path:
        """Where the recording lies or will lie: named by images, vit and a hash of what it means."""
        name = re.sub(r"[^\w.-]+", "_", f"{self.images.name}-{self.vit.name}")
        return Path(self.root) / f"{name}-{fingerprint(self.plan.meaning)[:8]}"

    def complete(self) -> bool:
        """Whether there is nothing left to record."""
        return self.recorded() is not None

    def recorded(self) -> Path | None:
        """A complete recording of the same meaning that holds all layers asked for, perhaps among others."""

        def rest(meaning: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in meaning.items() if key != "layers"}

        own = self.directory()
        others = sorted(Path(self.root).glob(f"{own.name[:-8]}????????/manifest.json"))
        for path in [own / "manifest.json", *others]:
            if not path.is_file():
                continue
            found = Manifest.load(path.parent)
            if (
                found.complete
                and rest(found.meaning) == rest(self.plan.meaning)
                and {*self.plan.layers} <= {*found.layers}
            ):
                return path.parent
        return None

    def run(self, progress: bool = True) -> Path:
        """Record what is missing and return the dataset's directory; at once where it is complete.

        With parts, the dataset is complete when the last part has run. Ctrl-C keeps every shard that is done.
        """
        self.check()
        if found := self.recorded():
            return found
        number, n_parts = parse_part(self.part)
        with part_of(self._locks, self.directory().name, number, n_parts):
            return self.recorded() or self._record(progress)

    def _record(self, progress: bool) -> Path:
        directory, console = self.directory(), Console(stderr=True, quiet=not progress)
        plan, part = self.plan, parse_part(self.part)
        writer = RecordingWriter(
            root=directory,
            meaning=plan.meaning,
            n_examples=plan.n_images,
            examples_per_shard=plan.examples_per_shard(self.shard_mb),
            layers=plan.layers,
            roles=plan.roles,
            d_model=plan.shape.d_model,
            dtype=self.dtype,
            labels=plan.labelling.info() if plan.labelling else None,
        )
        pending = writer.pending(*part)
        say(console, self._summary(writer, pending))
        try:
            skipped = self._fill(writer, pending, console, progress) if pending else []
        except KeyboardInterrupt:
            left = f"{len(writer.pending(*part))} of {writer.n_shards} shards are left"
            say(console, f"Interrupted. {left}; the same command goes on from there.")
            raise
        report(console, skipped)
        with exclusive(self._locks / f"{directory.name}-finish"):  # parts that end together merge one after the other
            finished = writer.finish()
        if finished is None:
            say(console, f"Part {self.part} is done; {directory} is complete when the other parts are.")
        return directory

    @property
    def _locks(self) -> Path:
        return Path(self.root) / ".locks"

    @property
    def _device(self) -> str:
        return resolve_device(self.device)

    def _fill(self, writer: RecordingWriter, pending: Sequence[int], console: Console, progress: bool) -> list[str]:
        filler = self._filler()
        if writer.needs_calibration:
            filler.calibrate(writer)
        return filler.fill(writer, pending, console, progress)

    def _filler(self) -> Filler:
        half = self.autocast and self._device.startswith("cuda")
        plan, backbone = self.plan, self.vit.load(self._device)
        loader = ItemLoader(
            images=self.images,
            order=plan.permutation(),
            transform=backbone.transform,
            shape=plan.shape,
            roles=plan.roles,
            labelling=plan.labelling,
            on_error=self.on_error,
        )
        return Filler(
            loader=loader,
            backbone=backbone,
            shape=plan.shape,
            layers=plan.layers,
            hook=self.hook,
            roles=tuple(plan.roles),
            dtype=torch.float16 if self.dtype == "float16" else torch.float32,
            autocast=getattr(torch, str(self.autocast)) if half else None,
            batch_size=self.batch_size,
            n_workers=self.n_workers or default_workers(),
        )

    def _summary(self, writer: RecordingWriter, pending: Sequence[int]) -> str:
        plan, some = self.plan, len(pending) < writer.n_shards
        most = "" if plan.shape.grid else "at most "
        resumed = f"; {len(pending)} of {writer.n_shards} shards are to do" if some else ""
        return (
            f"Recording {plan.n_images:,} images ({self.images.name}) x {most}{plan.n_tokens} tokens x {plan.shape.d_model} "
            f"of {self.vit.name}, layer{'s' * (len(plan.layers) > 1)} {', '.join(map(str, plan.layers))}, on {self._device}: "
            f"{plan.n_bytes / 1e9:.2g} GB in {writer.root}{resumed}"
        )
