"""A bank of fitters over the stream: every batch is read once and goes to all that still need it.

stream ──batch──▶ z ──update──▶ each fitter ; at the end of an epoch finish_pass ; again, as long as one has passes left

Signals are answered between batches, as in training (callbacks/signals.py): within a batch some fitters have it and some not.
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
from saev.files import replacing
from saev.nn.normalise import Normaliser
from saev.runs.signals import After, Signals

log = logging.getLogger(__name__)


class Passes:
    """Fitters and how far they are; `checkpoint` is one file, replaced every `save_every_s` seconds and at a signal."""

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
        self.signals = Signals()

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
            number, at = divmod(self.data.consumed, self.plan.n_batches)
            log.info("going on at batch %d of %d of pass %d", at + 1, self.plan.n_batches, number + 1)
        self._forget_after(self.data.consumed)

    def run(self) -> None:
        """All passes, from where they are. Exits with 128 + signal when one ended it early; everything is saved first."""
        saved = time.monotonic()
        self.signals.listen()
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
                    if self.signals.pending or time.monotonic() - saved > self.save_every_s:
                        self.save()
                        self._answer(number)
                        saved = time.monotonic()
        finally:
            self.signals.release()

    def _answer(self, number: int) -> None:
        """Do what signals ask for beside the save that was just made."""
        received, after = self.signals.take()
        if after == After.REQUEUE:
            self.signals.leave()
        if after == After.STOP:
            run = self.history.parent
            log.warning("stopped in pass %d; go on with: saev fit ckpt_path=%s", number + 1, run)
            raise SystemExit(128 + (received or 0))

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

    def _forget_after(self, step: int) -> None:
        """Leave out of the history the passes that will be finished again, as a killed process had not saved them."""
        if self.history.is_file():
            lines = self.history.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            with replacing(self.history) as file:
                file.write("".join(kept).encode())

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
