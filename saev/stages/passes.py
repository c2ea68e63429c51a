"""A bank of fitters over the stream: every batch is read once and goes to all that still need it.

stream ──batch──▶ z ──update──▶ each fitter ; at the end of an epoch finish_pass ; again, as long as one has passes left
"""

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules import ActivationDataModule
from saev.baselines.fitter import Fitter
from saev.nn.normalise import Normaliser
from saev.shards.manifest import replacing

log = logging.getLogger(__name__)


class Passes:
    """Fitters and how far they are; `checkpoint` is one file, replaced every `save_every_s` seconds and when interrupted."""

    def __init__(
        self,
        fitters: Mapping[str, Fitter],
        data: ActivationDataModule,
        normaliser: Normaliser,
        device: str,
        checkpoint: Path,
        history: Path,
        save_every_s: float = 60,
    ):
        assert data.store is not None
        self.fitters, self.data, self.device = dict(fitters), data, device
        self.normaliser = normaliser.to(device)
        self.checkpoint, self.history, self.save_every_s = checkpoint, history, save_every_s
        tokens = torch.from_numpy(data.store.tokens_per_image(data.layer))
        self.first = (tokens.cumsum(0) - tokens).to(device)  # the number of an image's first token among all
        self.plan = data.stream(data.train_examples).plan

    def start(self) -> None:
        """Give each fitter its sample, and go on from the checkpoint where there is one."""
        for fitter in self.fitters.values():
            wanted = min(max(fitter.sample_tokens, 1), self.plan.n_tokens)
            sample = self.normaliser(self.data.sample(wanted).to(self.device))
            fitter.start(self.normaliser, sample, self.plan.n_tokens)
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            self.data.load_state_dict(state["stream"])
            for name, fitter in self.fitters.items():
                fitter.load_state_dict(state["fitters"][name])

    def run(self) -> None:
        """All passes, from where they are. On an interruption everything is saved first."""
        saved = time.monotonic()
        try:
            with self._bar() as bar:
                task = bar.add_task("", total=None)
                for batch in self.data.train_dataloader() if self._n_passes else ():
                    step = batch["step"]
                    number, at = divmod(step, self.plan.n_batches)
                    text = f"pass {number + 1} of at most {self._n_passes}"
                    bar.update(task, description=text, total=self.plan.n_batches, completed=at + 1)
                    if number < self._n_passes:  # else a checkpoint of the very end
                        self._update(batch, number)
                        self.data.consumed = step + 1
                    if at + 1 == self.plan.n_batches:
                        self._finish(number)
                    if number >= self._n_passes or step + 1 >= self._n_passes * self.plan.n_batches:
                        return
                    if time.monotonic() - saved > self.save_every_s:
                        self.save()
                        saved = time.monotonic()
        except KeyboardInterrupt:
            self.save()
            raise

    @property
    def _n_passes(self) -> int:
        return max(fitter.n_passes for fitter in self.fitters.values())

    def _update(self, batch: Mapping[str, torch.Tensor], number: int) -> None:
        z = self.normaliser(batch["acts"].to(self.device))
        token = self.first[batch["example"].to(self.device)] + batch["token"].to(self.device).long()
        for fitter in self.fitters.values():
            if number < fitter.n_passes:
                fitter.update(z, token)

    def _finish(self, number: int) -> None:
        for name, fitter in self.fitters.items():
            if number < fitter.n_passes:
                found = {key: float(value) for key, value in fitter.finish_pass().items()}
                log.info("%s, pass %d: %s", name, number + 1, ", ".join(f"{k} {v:.6g}" for k, v in found.items()))
                known = {key: value for key, value in found.items() if math.isfinite(value)}
                with open(self.history, "a") as file:
                    step = (number + 1) * self.plan.n_batches
                    file.write(json.dumps({"step": step, "pass": number + 1, "member": name, **known}) + "\n")

    def save(self) -> None:
        """Replace the checkpoint by the present state."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {"stream": self.data.state_dict(), "fitters": {n: f.state_dict() for n, f in self.fitters.items()}}
        with replacing(self.checkpoint) as file:
            torch.save(state, file)

    @staticmethod
    def _bar() -> Progress:
        console = Console(stderr=True)
        columns = TextColumn("  {task.description}"), BarColumn(), TimeRemainingColumn()
        return Progress(*columns, console=console, disable=not console.is_terminal)
