"""Recovery of a known dictionary by every architecture, after SynthSAEBench: `python benchmarks/bench_synthetic.py`.

One bank of all architectures that conf/ offers, at equal L0, sees the same stream of a synthetic world
(benchmarks/synthetic.py) and is judged against the features that made it (benchmarks/recovery.py).
`--quick` stays under a minute on two cores, `--full` is the published size (for a GPU), `--check` exits with 1 where an
architecture that should be better is not; `--csv` keeps the table. `--nulls` trains
one architecture beside its nulls (conf/experiment/nulls.yaml) and beside an oracle, whose atoms are the most frequent features
and stay so.
"""

import argparse
import dataclasses
import functools
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import polars as pl
import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from benchmarks import recovery, zoo
from benchmarks.synthetic import Law, World
from callbacks import SparsityWarmup
from saev.metrics.stateful import ValidationMetrics
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
    stored.append(["freeze=decoder", f"label={ORACLE}"])
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


@torch.no_grad()
def judge(module: TimedBank, world: World, size: Size) -> list[dict[str, Any]]:
    """A row per architecture, on samples that training has not seen."""
    members = list(module.bank)
    metrics = ValidationMetrics(module.bank.normaliser.mean, [size.d_sae] * len(members)).to(world.device)
    cosines = [recovery.cosines(member.sae.atoms, world.atoms) for member in members]
    matches = [recovery.best_match(cosine) for cosine in cosines]
    counts = [torch.zeros(3, size.d_sae, dtype=torch.int64, device=world.device) for _ in members]
    for k in range(size.eval_batches):
        x, f = world.batch(HELD_OUT + k, size.batch)
        codes = [member.sae.encode(x) for member in members]
        metrics.update(x, ((c, member.sae.decode(c)) for c, member in zip(codes, members, strict=True)))
        for count, c, match in zip(counts, codes, matches, strict=True):
            count += recovery.detection_update(c, f, match)
    rows = []
    for member, cosine, match, count, row in zip(members, cosines, matches, counts, metrics.compute(), strict=True):
        f1, precision, recall = recovery.detection_compute(count)
        rows.append(
            {
                "architecture": member.name,
                "L0": float(row["l0"]),
                "MCC": recovery.mean_correlation(cosine),
                "F1": f1,
                "precision": precision,
                "recall": recall,
                "explained variance": float(row["explained_variance"]),
                "uniqueness": recovery.uniqueness(match),
                "dead": float(row["dead"]),
                "seconds": module.seconds[member.name],
            }
        )
    return rows


# (metric, better, worse, reason): published differences are .02 and more, the law's own spread over seeds is .001
EXPECTED = [
    *(
        (metric, better, "relu", "an L1 penalty shrinks codes, so weak firings of several latents stand for a feature")
        for better in ("batchtopk", "jumprelu", "gated")
        for metric in ("MCC", "F1", "explained variance")
    ),
    ("MCC", "topk", "relu", "it does not shrink; as detectors both fail, as features are not k to a sample"),
    *(
        (metric, better, "batchtopk", "prefixes must explain parents without their children, which undoes absorption")
        for better in ("batchtopk+matryoshka", "batchtopk+matryoshka_random")
        for metric in ("MCC", "F1")
    ),
    ("explained variance", "batchtopk", "batchtopk+matryoshka", "prefixes cost reconstruction"),
    *((metric, "oracle", "trained", "its atoms are the features") for metric in ("MCC", "F1", "uniqueness")),
    *(
        (metric, "trained", null, "a part of it is not trained")
        for metric in ("MCC", "explained variance")
        for null in (*(f"{what}{at}" for what in FROZEN for at in ("", "_random")), "random_vectors")
    ),
]


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """What should be in another order."""
    by = {row["architecture"]: row for row in rows}
    return [
        f"{metric}: {better} {by[better][metric]:.4f} is not above {worse} {by[worse][metric]:.4f} ({reason})"
        for metric, better, worse, reason in EXPECTED
        if better in by and worse in by and not by[better][metric] > by[worse][metric]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--quick", action="store_true", help="under a minute on 2 cores; too short to order architectures"
    )
    which.add_argument("--full", action="store_true", help="the published size, for a GPU")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the expected order fails")
    parser.add_argument("--nulls", metavar="ARCHITECTURE", help="this one beside its nulls, e.g. batchtopk")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the size's own")
    parser.add_argument("--lr", type=float, help="instead of the size's own")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--csv", type=Path, help="write the table there")
    args = parser.parse_args()
    size = SIZES["full" if args.full else "quick" if args.quick else "default"]
    size = dataclasses.replace(size, **{k: v for k in ("steps", "lr") if (v := getattr(args, k)) is not None})
    world = World(size.law, args.seed, args.device)
    # as many as the d_sae most frequent features have active: what a dictionary of this width can do at best (25 published)
    l0 = float(world.frequency.sort(descending=True).values[: size.d_sae].sum())
    start = time.perf_counter()
    rows = judge(train(world, size, round(l0), args.nulls), world, size)
    table = Table(
        *rows[0],
        title=f"{size.law.n_features} features (L0 {float(world.frequency.sum()):.1f}) in {size.law.d_model} dimensions, "
        f"d_sae {size.d_sae}, {size.steps} steps of {size.batch}, lr {size.lr:g}, {time.perf_counter() - start:.0f} s",
    )
    for row in rows:
        table.add_row(
            *(
                f"{v:.4f}" if isinstance(v, float) and v < 2 else f"{v:.1f}" if isinstance(v, float) else v
                for v in row.values()
            )
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if args.csv:
        pl.DataFrame(rows).write_csv(args.csv)
    wrong = missed(rows)
    print(*wrong, sep="\n")
    return int(args.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
