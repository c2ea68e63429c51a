"""Fits several baselines over the activation stream: each batch is read once and goes to all that have passes left.

stream ──batch──▶ z ──update──▶ each fitter ; at the end of an epoch finish_pass ; repeated while one has passes left
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from datamodules import ActivationDataModule
from saev.baselines.fitter import Fitter
from saev.files import replacing
from saev.nn.normalise import Normaliser
from saev.progress import bar
from saev.runs.resumable import Resumable

log = logging.getLogger(__name__)


class Passes:
    """Fitters and their progress, saved to `checkpoint` every `save_every_s` seconds and at a signal.

    `history` receives a line per fitter and pass.
    """

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
        self.fitters, self.data, self.device, self.history = dict(fitters), data, device, history
        self.normaliser = normaliser.to(device)
        tokens = torch.from_numpy(data.store.tokens_per_image(data.layer))
        self.first = (tokens.cumsum(0) - tokens).to(device)  # index of each image's first token among all tokens
        self.plan = data.stream(data.train_examples).plan
        remedy = f"saev fit ckpt_path={history.parent}"
        self.loop = Resumable(checkpoint, self._state, save_every_s, remedy)

    def start(self) -> None:
        """Give each fitter its sample, and resume from the checkpoint where there is one."""
        for fitter in self.fitters.values():
            n_sample = min(max(fitter.sample_tokens, 1), self.plan.n_tokens)
            sample = self.normaliser(self.data.sample(n_sample).to(self.device))
            fitter.start(self.normaliser, sample, self.plan.n_tokens)
        if (state := self.loop.load(self.device)) is not None:
            self.data.load_state_dict(state["stream"])
            for name, fitter in self.fitters.items():
                fitter.load_state_dict(state["fitters"][name])
            number, batch = divmod(self.data.consumed, self.plan.n_batches)
            log.info("resuming at batch %d of %d of pass %d", batch + 1, self.plan.n_batches, number + 1)
        self._truncate_history(self.data.consumed)

    def run(self) -> None:
        """All passes that are left. A signal saves and raises SystemExit(128 + signal)."""
        if not self._n_passes:
            return
        most = self._n_passes * self.plan.n_batches
        self.data.answer_signals = self.loop.between_batches
        with self.loop, bar(f"Fitting, at most {self._n_passes} passes", most, self.data.consumed) as advance:
            for batch in self.data.train_dataloader():
                step = batch["step"]
                number, index = divmod(step, self.plan.n_batches)
                if number < self._n_passes:  # else a checkpoint of the very end
                    self._update(batch, number)
                    self.data.consumed = step + 1
                    advance(1)
                if index + 1 == self.plan.n_batches:
                    self._finish(number)
                if number >= self._n_passes or step + 1 >= self._n_passes * self.plan.n_batches:
                    return
                self.loop.between_batches()

    def save(self) -> None:
        """Replace the checkpoint by the present state."""
        self.loop.save()

    def _state(self) -> dict[str, Any]:
        return {"stream": self.data.state_dict(), "fitters": {n: f.state_dict() for n, f in self.fitters.items()}}

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
        """End the pass of each fitter that took part; log its metrics and append the finite ones to the history."""
        for name, fitter in self.fitters.items():
            if number < fitter.n_passes:
                metrics = {key: float(value) for key, value in fitter.finish_pass().items()}
                if metrics:
                    log.info("%s, pass %d: %s", name, number + 1, ", ".join(f"{k} {v:.6g}" for k, v in metrics.items()))
                finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
                with open(self.history, "a") as file:
                    step = (number + 1) * self.plan.n_batches
                    file.write(json.dumps({"step": step, "pass": number + 1, "member": name, **finite}) + "\n")

    def _truncate_history(self, step: int) -> None:
        """Drop the lines of passes after `step`: a killed process had not saved them, so they are repeated."""
        if self.history.is_file():
            lines = self.history.read_text().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            with replacing(self.history) as file:
                file.write("".join(kept).encode())
