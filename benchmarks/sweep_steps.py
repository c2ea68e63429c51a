"""What bench_sweep.py times within one process: training steps with and without Lightning, and the memory that they take."""

import functools
import itertools
import time
from pathlib import Path

import lightning as L
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from datamodules import ActivationDataModule
from saev.nn import AuxK, Member, Normaliser, Plain, SAEBank, TopK
from saev.shards import RecordingWriter
from saev.training.bank.module import BankModule

ROOT = Path(__file__).resolve().parent.parent
TOKENS, BATCH = 256, 4096


def record(root: Path, d_model: int, n_images: int) -> Path:
    """A recording of low-rank noise: what is in it does not change the time."""
    meaning = {"images": {"name": "noise"}, "vit": {"name": "none"}}
    writer = RecordingWriter(root, meaning, n_images, 64, (0,), {"patches": TOKENS}, d_model, "float16")
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(32, d_model)).astype(np.float32)
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                acts = (rng.normal(size=(TOKENS, 32)).astype(np.float32) @ basis).astype(np.float16)
                shard.add(example, {0: acts}, {"key": str(example), "grid_h": 16, "grid_w": 16})
    writer.finish()
    return root


def bank_module(data: ActivationDataModule, d_sae: int, n_members: int) -> BankModule:
    assert data.store is not None
    normaliser = Normaliser.fit(data.store.moments(0))
    sample = normaliser(data.sample(1024))
    specs = [Member(TopK(4 + i), f"k={4 + i}", Plain(), AuxK(), 3e-4, d_sae=d_sae) for i in range(n_members)]
    bank = SAEBank([spec.build(normaliser, sample) for spec in specs])
    return BankModule(bank, functools.partial(torch.optim.Adam, fused=True))


class Clock(L.Callback):
    """Time between the ends of two steps."""

    def __init__(self, first: int, last: int):
        self.first, self.last, self.marks = first, last, {}

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step in (self.first, self.last):
            self.marks[trainer.global_step] = time.perf_counter()

    @property
    def per_step(self) -> float:
        return (self.marks[self.last] - self.marks[self.first]) / (self.last - self.first)


def lightning_steps(module: BankModule, data: ActivationDataModule, steps: int, scratch: Path) -> float:
    clock = Clock(5, steps + 5)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["experiment=none", f"paths.run_dir={scratch}", "val_every=1000000", "trainer=cpu"]
        cfg = compose("train", overrides)
    callbacks = [callback for callback in instantiate(cfg.callbacks).values() if callback is not None]
    trainer = instantiate(cfg.trainer, callbacks=[*callbacks, clock], max_steps=steps + 5)
    trainer.fit(module, data)
    return clock.per_step


def bare_steps(module: BankModule, data: ActivationDataModule, steps: int) -> float:
    optimisers = [torch.optim.Adam(member.sae.parameters(), lr=member.lr, fused=True) for member in module.bank]
    batches = iter(data.train_dataloader())
    module.bank.train()
    for number in itertools.count():
        if number == 5:
            start = time.perf_counter()
        if number == steps + 5:
            batches.close()  # type: ignore[attr-defined]
            return (time.perf_counter() - start) / steps
        z = module.bank.normaliser(next(batches)["acts"])
        for member, optimiser in zip(module.bank, optimisers, strict=True):
            losses = member(z, 1.0)
            losses.loss.backward()
            member.condition_gradients(1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            member.finish_step(losses.l0.detach(), 1.0)
    raise AssertionError


class Peak(L.Callback):
    """The most memory that steps take after the first, in bytes."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1:
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew

    @property
    def value(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def peak_memory(root: str, d_sae: int, n_members: int) -> int:
    data = ActivationDataModule(root, 0, BATCH, val_fraction=0.02, pool=65536)
    data.setup("fit")
    peak = Peak()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(accelerator="cpu", max_steps=6, callbacks=[peak], limit_val_batches=0, **quiet)
    trainer.fit(bank_module(data, d_sae, n_members), data)
    return peak.value
