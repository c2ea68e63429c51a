"""A recording: images through a backbone at chosen layers, checked before it starts, resumed after an interruption."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from saev.device import check_device, resolve_device
from saev.images.source import ImageSource
from saev.locks import exclusive, parse_part, part_of
from saev.progress import print_line, terminal
from saev.shards import ActivationStore, Manifest, RecordingWriter, fingerprint
from saev.vits.decoding_processes import check_importable
from saev.vits.faster_forward import check_compilable, compile_blocks, round_weights
from saev.vits.image_loader import ImageLoader
from saev.vits.recording_pass import RecordingPass
from saev.vits.recording_plan import RecordingPlan, as_tuple, check_disk
from saev.vits.recording_progress import Remarks
from saev.vits.settings import RecordSettings
from saev.vits.source import VitSource
from saev.vits.threads import default_workers


def record(
    images: ImageSource,
    vit: VitSource,
    layers: Sequence[int] | int,
    *,
    root: str | os.PathLike | None = None,
    progress: bool = True,
    **settings: Any,
) -> ActivationStore:
    """Record activations of these layers (block indices; negative ones count from the last) in a folder below `root`.

    None: $SAEV_OUTPUTS/activations, where evaluation looks for the recordings that dictionaries were trained on.
    Returns at once if they are recorded already, and resumes an interrupted recording. `settings` are fields of
    RecordSettings. Raises ValueError naming the setting and the remedy.
    """
    if root is None:
        root = Path(os.environ.get("SAEV_OUTPUTS", "outputs"), "activations")
    return ActivationStore(Recording(images, vit, layers, root, **settings).run(progress))


class Recording:
    """Activations to record below `root`; `settings` are fields of RecordSettings, checked by `check` and `run`."""

    def __init__(
        self,
        images: ImageSource,
        vit: VitSource,
        layers: Sequence[int] | int | None,
        root: str | os.PathLike,
        **settings: Any,
    ):
        self.images, self.vit, self.layers, self.root = images, vit, layers, root
        self._settings = settings

    @cached_property
    def settings(self) -> RecordSettings:
        """The settings; ValueError where one is out of bounds."""
        return RecordSettings(**self._settings)

    def check(self, stored: bool = True) -> None:
        """Raise ValueError, within seconds, for every foreseeable problem; fetches the demo's files. `stored`: the disk is needed."""
        check_device(self.settings.device, "record.device")
        parse_part(self.settings.part)
        if self.settings.decoding == "processes":
            check_importable(self.images)
        if self.settings.compile:
            check_compilable(self.vit.shape(), self.settings.hook, self.vit.name)
        if stored and not message_of(self.images.check) and self.recorded():
            return  # the weights are not needed any more
        problems = [problem for source in (self.vit, self.images) if (problem := message_of(source.check))]
        if problems:  # report both at once
            raise ValueError("\n".join(problems))
        if stored:
            check_disk(Path(self.root), self.directory(), self.plan.n_bytes)

    @cached_property
    def plan(self) -> RecordingPlan:
        """Contents and sizes of the recording, found without loading weights."""
        s, layers = self.settings, as_tuple(self.layers)
        return RecordingPlan(self.images, self.vit, layers, as_tuple(s.tokens), s.hook, s.dtype, s.order, s.seed)

    def directory(self) -> Path:
        """The recording's directory: named by images, backbone and a hash of its meaning."""
        name = re.sub(r"[^\w.-]+", "_", f"{self.images.name}-{self.vit.name}", flags=re.ASCII)
        return Path(self.root) / f"{name}-{fingerprint(self.plan.meaning)[:8]}"

    def recorded(self) -> Path | None:
        """A complete recording of the same meaning that contains all requested layers; None if there is none."""

        def without_layers(meaning: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in meaning.items() if key != "layers"}

        directory, meaning = self.directory(), without_layers(self.plan.meaning)
        others = sorted(Path(self.root).glob(f"{directory.name[:-8]}????????/manifest.json"))
        for path in [directory / "manifest.json", *others]:
            if not path.is_file():
                continue
            stored = Manifest.load(path.parent)
            if (
                stored.complete
                and without_layers(stored.meaning) == meaning
                and {*self.plan.layers} <= {*stored.layers}
            ):
                return path.parent
        return None

    def run(self, progress: bool = True) -> Path:
        """Record what is missing and return the recording's directory; at once if it is complete.

        With parts, the recording is complete once the last part has run. Ctrl-C keeps all finished shards.
        """
        self.check()
        if recorded := self.recorded():
            return recorded
        number, n_parts = parse_part(self.settings.part)
        with part_of(self._locks, self.directory().name, number, n_parts):
            return self.recorded() or self._record(progress)

    def _record(self, progress: bool) -> Path:
        directory, console = self.directory(), terminal(stderr=True, quiet=not progress)
        plan, part = self.plan, parse_part(self.settings.part)
        writer = RecordingWriter(
            root=directory,
            meaning=plan.meaning,
            n_examples=plan.n_images,
            examples_per_shard=plan.examples_per_shard(self.settings.shard_mb),
            layers=plan.layers,
            roles=plan.roles,
            d_model=plan.shape.d_model,
            dtype=self.settings.dtype,
            labels=plan.labelling.info() if plan.labelling else None,
        )
        pending = writer.pending(*part)
        print_line(console, self._summary(writer, pending))
        try:
            remarks = self._fill(writer, pending, console, progress) if pending else Remarks()
        except KeyboardInterrupt:
            left = f"{len(writer.pending(*part))} of {writer.n_shards} shards are left"
            print_line(console, f"Interrupted. {left}; run the same command again to resume.")
            raise
        remarks.print(console)
        with exclusive(self._locks / f"{directory.name}-finish"):  # parts that end together merge one after the other
            finished = writer.finish()
        if finished is None:
            print_line(console, f"Part {self.settings.part} is done; {directory} is complete once the other parts are.")
        return directory

    @property
    def _locks(self) -> Path:
        return Path(self.root) / ".locks"

    @property
    def _device(self) -> str:
        return resolve_device(self.settings.device)

    def _fill(self, writer: RecordingWriter, pending: Sequence[int], console: Console, progress: bool) -> Remarks:
        recording_pass = self.recording_pass()
        if writer.needs_calibration:
            recording_pass.calibrate(writer)
        return recording_pass.fill(writer, pending, console, progress)

    def recording_pass(self) -> RecordingPass:
        """The backbone on its device, and how images pass through it."""
        plan, settings, backbone = self.plan, self.settings, self.vit.load(self._device)
        autocast = None
        if settings.autocast and self._device.startswith("cuda"):
            autocast = getattr(torch, str(settings.autocast))
            round_weights(backbone, plan.layers, settings.hook, autocast)
        if settings.compile:
            compile_blocks(backbone)
        loader = ImageLoader(
            images=self.images,
            order=plan.permutation(),
            transform=backbone.transform,
            shape=plan.shape,
            roles=plan.roles,
            labelling=plan.labelling,
            on_error=settings.on_error,
        )
        return RecordingPass(
            loader=loader,
            backbone=backbone,
            shape=plan.shape,
            layers=plan.layers,
            hook=settings.hook,
            roles=tuple(plan.roles),
            dtype=torch.float16 if settings.dtype == "float16" else torch.float32,
            autocast=autocast,
            batch_size=settings.batch_size,
            n_workers=settings.n_workers or default_workers(),
            decoding=settings.decoding,
        )

    def _summary(self, writer: RecordingWriter, pending: Sequence[int]) -> str:
        plan = self.plan
        at_most = "" if plan.shape.grid else "at most "
        left = f"; {len(pending)} of {writer.n_shards} shards are left" if len(pending) < writer.n_shards else ""
        return (
            f"Recording {plan.n_images:,} images ({self.images.name}) x {at_most}{plan.n_tokens} tokens x {plan.shape.d_model} "
            f"of {self.vit.name}, layer{'s' * (len(plan.layers) > 1)} {', '.join(map(str, plan.layers))}, on {self._device}: "
            f"{plan.n_bytes / 1e9:.2g} GB in {writer.root}{left}"
        )


def message_of(check: Callable[[], None]) -> str | None:
    """The message of the ValueError that a check raises; None where it passes."""
    try:
        return check()
    except ValueError as error:
        return str(error)
