"""Banks trained on a synthetic world: all architectures, or one beside its nulls and an oracle."""

import dataclasses
import functools
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from benchmarks import zoo
from benchmarks.synthetic import Law, World
from callbacks import SparsityWarmup
from saev.nn import Member, Normaliser, SAEBank, SparseAutoencoder
from saev.runs.planning import names
from saev.training.bank.module import BankModule
from saev.training.lightning import quieten_lightning


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of it."""

    law: Law
    d_sae: int
    steps: int
    lr: float
    warmup: int
    dead_tokens: int
    batch: int = 1024
    eval_batches: int = 200


# Beside the published size the same law at an eighth or less of each number, with the learning rate that short runs want.
SMALL = Law(n_features=1024, d_model=128, roots=8)
SIZES = {
    "quick": Size(SMALL, 256, steps=300, lr=4e-3, warmup=30, dead_tokens=50_000, eval_batches=50),
    "default": Size(SMALL, 256, steps=3000, lr=3e-3, warmup=200, dead_tokens=200_000),
    "full": Size(Law(), 4096, steps=195_312, lr=3e-4, warmup=1000, dead_tokens=10_000_000, eval_batches=500),
}
ORACLE = "oracle"
FROZEN = ("decoder_frozen", "encoder_frozen", "soft_frozen", "untrained")
HELD_OUT = 1 << 40  # batches from here on are for measuring


class Stream(IterableDataset):
    """The world's batches, as training wants them."""

    def __init__(self, world: World, size: Size):
        self.world, self.size = world, size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for k in range(self.size.steps):
            yield {"acts": self.world.batch(k, self.size.batch).x}


class TimedBank(BankModule):
    """A bank that keeps each member's seconds (of its losses, gradients and optimiser)."""

    seconds: dict[str, float]

    def _member_step(self, member: Member, *args: Any) -> dict[str, Tensor]:
        start = self._now()
        step = super()._member_step(member, *args)
        self.seconds[member.name] = self.seconds.get(member.name, 0.0) + self._now() - start
        return step

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def asked(nulls: str | None, l0: float) -> dict[str, list[str]]:
    """Overrides of each SAE by name: all architectures, or one and its nulls."""
    if nulls is None:
        return {name: [*zoo.overrides(name), zoo.sparsity(name, l0)] for name in zoo.architectures()}
    stored = yaml.safe_load((zoo.CONF / "experiment" / "nulls.yaml").read_text())["variants"]
    stored.append(["freeze=decoder", "seed=1", f"label={ORACLE}"])  # its start is replaced: `plant`
    return {
        name: [*of, *zoo.overrides(nulls), zoo.sparsity(nulls, l0)]
        for name, of in zip(names(stored), stored, strict=True)
    }


@torch.no_grad()
def plant(sae: SparseAutoencoder, world: World) -> None:
    """Make the world's most frequent features the atoms."""
    atoms = world.atoms[world.frequency.argsort(descending=True)[: sae.n_latents]]
    sae.w_dec.copy_(atoms)
    sae.w_enc.copy_(atoms.T)


def train(world: World, size: Size, l0: float, nulls: str | None = None) -> TimedBank:
    """All architectures, or one beside its nulls, trained on the stream as `saev train` would."""
    quieten_lightning()
    warnings.filterwarnings("ignore", r".*does not have many workers")  # batches are made where they are used
    warnings.filterwarnings("ignore", r"You defined a `validation_step` but have no")  # `judge` knows more
    variants = asked(nulls, l0)
    shared = [f"{key}={getattr(size, key)}" for key in ("d_sae", "lr", "dead_tokens")]
    specs = zoo.plan([*variants.values()], shared)
    sample = torch.cat([world.batch(HELD_OUT - 1 - k, size.batch).x for k in range(16)])
    mean = sample.mean(0)
    normaliser = Normaliser(mean, (sample - mean).square().mean().sqrt())
    members = [
        dataclasses.replace(spec, name=name).build(normaliser, normaliser(sample))
        for name, spec in zip(variants, specs, strict=True)
    ]
    for member in members:
        if member.name == ORACLE:
            plant(member.sae, world)
    adam = functools.partial(torch.optim.Adam, fused=True)
    module = TimedBank(SAEBank(members).to(world.device), adam, warmup=size.warmup / size.steps)
    module.seconds = {}
    trainer = L.Trainer(
        accelerator="gpu" if world.device == "cuda" else "cpu",
        devices=1,
        max_steps=size.steps,
        callbacks=[SparsityWarmup(), Say(size.steps)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(Stream(world, size), batch_size=None))
    return module.to(world.device).eval()


class Say(L.Callback):
    """A line every tenth of the run; stops members that have diverged."""

    def __init__(self, steps: int):
        self.every = max(1, steps // 10)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: BankModule, *_: Any) -> None:  # type: ignore[override]
        if trainer.global_step % self.every == 0:
            now = pl_module.snapshot()
            values = (
                f"{name} {mse:.3f} ({l0:.1f})"
                for name, mse, l0 in zip(pl_module.bank.names, now["z_mse"], now["l0"], strict=True)
            )
            print(f"step {trainer.global_step}: MSE (L0) {', '.join(values)}", file=sys.stderr, flush=True)
