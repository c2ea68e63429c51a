"""One of two processes that train a bank together: python process.py DATASET FOLDER, with Lightning's variables set
and tests/ on the path.

Goes through the runs that test_distributed.py compares, one after the other; each process leaves `<run>-<rank>.pt` in FOLDER.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from training.banks import Snapshots, StopAt, build, specs, state

from callbacks import Checkpoint
from saev.nn import AuxK, Member, Plain, ReLU, TopK
from saev.shards import TokenStream
from saev.training.bank.ddp import BankDDP


def members():
    """All architectures, and those whose numbers are the whole batch's in a way of their own."""
    auxk = AuxK(dead_tokens=300)
    target = Member(ReLU(1e-2, l0_target=4), "target", Plain(), auxk, 1e-2, d_sae=64)
    return [*specs(), target, Member(TopK(4, threshold=True), "threshold", Plain(), auxk, 1e-2, d_sae=64)]


def diverging():
    """Three members, of which the second does not stay finite."""
    first, *_, last = specs()
    return [first, Member(ReLU(1e-3), "bad", Plain(), AuxK(), 1e30, d_sae=64), last]


def run(dataset, folder, name, split="batch", stop=None, resume=None, bank=members, **more):
    snapshots = Snapshots()
    callbacks = [snapshots] if stop is None else [snapshots, StopAt(stop)]
    strategy = BankDDP(split=split, process_group_backend="gloo")
    trainer, module, data = build(dataset, bank(), callbacks=callbacks, strategy=strategy, devices=2, **more)
    trainer.fit(module, data, ckpt_path=resume and folder / f"{resume}.ckpt", weights_only=True if resume else None)
    optimiser = module.optimizers().optimizer
    found = {
        "state": state(module),
        "seen": snapshots.seen,
        "steps": trainer.global_step,
        "stopped": [member.stopped for member in module.bank],
        "with_state": [any(p in optimiser.state for p in group["params"]) for group in optimiser.param_groups],
    }
    if stop is not None:
        trainer.save_checkpoint(folder / f"{name}.ckpt")
    trainer.validate(module, data, verbose=False)
    torch.save({**found, "validated": module.validated_rows()}, folder / f"{name}-{trainer.global_rank}.pt")


class SignalLater(L.Callback):
    """Sends a signal to this process half a second after a step, or after the first validation has begun."""

    def __init__(self, number, validation):
        self.sent = None
        setattr(self, "on_validation_start" if validation else "on_train_batch_end", self.start)
        self.validation, self.number = validation, number

    def start(self, trainer, *_):
        if self.sent is None and (self.validation or trainer.global_step == 5):
            self.sent = time.monotonic() + 0.5
            threading.Timer(0.5, os.kill, (os.getpid(), self.number)).start()


@contextlib.contextmanager
def stalling(validation, seconds):
    """Streams that wait before the second batch of validation, or before training's eighth, until closed or so many seconds."""
    batches = TokenStream.batches

    def stalled(self, start=0, stop=None, closing=None):
        for i, batch in enumerate(batches(self, start, stop, closing)):
            if validation == (stop is not None) and i == (1 if validation else 7) and closing.wait(seconds):
                return
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenStream, "batches", stalled)
        yield


def missing(dataset, folder, name, silent=None, to=None, number=0, validation=False, seconds=60, slurm=False):
    """A run whose batches stop in process `silent`, and a signal to process `to`; it leaves a checkpoint and what followed."""
    rank = int(os.environ["RANK"])
    checkpoint, after = Checkpoint(folder / name / "last.ckpt", 1000), SignalLater(number, validation)
    callbacks = [checkpoint, *([after] if rank == to else [])]
    strategy = BankDDP(process_group_backend="gloo")
    trainer, module, data = build(dataset, specs()[:2], 14, callbacks, strategy=strategy, devices=2)
    with pytest.MonkeyPatch.context() as patch, stalling(validation, seconds if rank == silent else 0):
        if slurm:
            patch.setenv("SLURM_JOB_ID", "7")
            signal.signal(signal.SIGTERM, lambda *_: None)
        path = folder / name / "resume.ckpt"
        trainer.fit(module, data, ckpt_path=path if path.exists() else None, weights_only=True)
    found = {
        "steps": trainer.global_step,
        "saved": checkpoint.saved,
        "received": checkpoint.received,
        "state": state(module),
    }
    waited = time.monotonic() - after.sent if after.sent else 0.0
    torch.save({**found, "waited": waited}, folder / f"{name}-{rank}.pt")


if __name__ == "__main__":
    place = Path(sys.argv[1]), Path(sys.argv[2])
    run(*place, "batch", parts=2)
    run(*place, "members", split="members")
    run(*place, "batch-17", stop=17)
    run(*place, "members-17", split="members", stop=17)
    run(*place, "batch-on", resume="one-17-parts-4", parts=4)
    run(*place, "members-on", split="members", resume="one-17")
    run(*place, "batch-bad", steps=12, bank=diverging)
    run(*place, "members-bad", split="members", steps=12, bank=diverging)
    missing(*place, "undisturbed")
    missing(*place, "training", silent=1, to=0, number=signal.SIGINT)
    missing(*place, "waiting", silent=1, to=1, number=signal.SIGTERM)
    missing(*place, "validation", silent=0, to=1, number=signal.SIGINT, validation=True)
    missing(*place, "goes-on", silent=1, to=1, number=signal.SIGTERM, seconds=1.5, slurm=True)
    for name in ("training", "validation"):
        resumed = place[1] / f"{name}-resumed" / "resume.ckpt"
        resumed.parent.mkdir(exist_ok=True)
        shutil.copy(place[1] / name / "last.ckpt", resumed)
        missing(*place, f"{name}-resumed")
