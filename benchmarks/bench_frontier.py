"""Sparsity against fidelity of every architecture, on real activations: `python benchmarks/bench_frontier.py`.

One `saev train` trains all architectures that conf/ offers, each at several L0, as one bank on a recorded dataset (by
default the demo's birds, recorded if need be); held-out images judge them, beside PCA of as many components. Writes
<out>.csv, <out>.md and <out>.png. `--check` exits with 1 where the frontiers are not in the expected order or latents die;
`--quick` stays under a minute or two on two cores once the birds are recorded. Further overrides go to `saev train`.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from hydra.utils import instantiate
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from sklearn.decomposition import PCA

from benchmarks import zoo
from saev.visuals.style import MARKERS, NEVER, PALETTE, panel

WANTED = (8.0, 16.0, 32.0, 64.0)
ROOT = zoo.CONF.parent
# A short run's settings, as the demo's: hot, and dead after a fraction of the run rather than 10 M tokens
SHORT = ["batch_size=512", "lr=2e-3", "warmup=0.08", "val_every=1000000", "logger=none", "report=false"]


def train(names: Sequence[str], wanted: Sequence[float], shared: Sequence[str], directory: Path) -> pl.DataFrame:
    """A row per architecture and L0, from one bank."""
    variants = [[*zoo.overrides(name), zoo.sparsity(name, l0)] for name in names for l0 in wanted]
    command = [
        sys.executable,
        "train.py",
        "experiment=none",
        *shared,
        zoo.bank(variants),
        f"hydra.run.dir={directory}",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    rows = pl.read_parquet(directory / "results.parquet")
    labels = [(name, l0) for name in names for l0 in wanted]
    return rows.with_columns(
        architecture=pl.Series([name for name, _ in labels]), wanted=pl.Series([l0 for _, l0 in labels])
    ).select("architecture", "wanted", "l0", "nmse", "dead_train", "dead", "dense_above_0.1", "d_sae", "train_tokens")


def pca(shared: Sequence[str], ranks: Sequence[float]) -> list[dict[str, Any]]:
    """Held-out NMSE of PCA, fitted to the bank's training tokens, with as many coefficients per token as latents are active."""
    cfg = zoo.configuration(shared)
    recording = instantiate(cfg.record) if cfg.dataset is None else None
    data = instantiate(cfg.datamodule, _partial_=True)(recording=recording)
    data.prepare_data()
    data.setup("fit")
    x = np.concatenate([batch["acts"].numpy().copy() for batch in data.val_dataloader()]).astype(np.float64)
    model = PCA().fit(data.sample(100_000).numpy().astype(np.float64))
    return [
        {"architecture": "PCA", "l0": float(rank), "nmse": nmse(x, rebuilt(model, x, round(rank)))} for rank in ranks
    ]


def rebuilt(model: PCA, x: Float[np.ndarray, "n d"], k: int) -> Float[np.ndarray, "n d"]:
    """x from the k largest coefficients of each token, which err less than the first k."""
    codes = model.transform(x)
    codes[np.abs(codes) < np.partition(np.abs(codes), -k, axis=1)[:, -k, None]] = 0
    return model.inverse_transform(codes)


def nmse(x: Float[np.ndarray, "n d"], x_hat: Float[np.ndarray, "n d"]) -> float:
    """sum ||x - x_hat||^2 / sum ||x - mean(x)||^2."""
    return float(((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())


def at(l0: float, rows: Sequence[dict[str, Any]], architecture: str) -> float | None:
    """NMSE of an architecture's frontier at an L0 between its points, linear in log L0; None outside them."""
    own = sorted((row["l0"], row["nmse"]) for row in rows if row["architecture"] == architecture)
    x, y = zip(*own, strict=True)
    return float(np.interp(np.log(l0), np.log(x), y)) if x[0] <= l0 <= x[-1] else None


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Points of TopK and BatchTopK that are not below ReLU's frontier at their L0, and SAEs with 5 % dead latents."""
    wrong = []
    for row in rows:
        name = row["architecture"]
        if name in ("topk", "batchtopk"):
            bar = at(row["l0"], rows, "relu")
            if bar is not None and not row["nmse"] < bar:
                wrong.append(f"{name} at L0 {row['l0']:.1f}: NMSE {row['nmse']:.4f}, relu's there is {bar:.4f}")
        if name != "PCA" and not row["dead_train"] < 0.05:
            wrong.append(f"{name} at L0 {row['l0']:.1f}: {100 * row['dead']:.1f} % of latents are dead")
    return wrong


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, a line per SAE."""
    lines = ["| architecture | L0 | NMSE | dead | silent on held-out |", "|---|---|---|---|---|"]
    for row in rows:
        shares = [f"{100 * row[key]:.1f} %" if key in row else "" for key in ("dead_train", "dead")]
        lines.append(f"| {row['architecture']} | {row['l0']:.1f} | {row['nmse']:.4f} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """NMSE against L0, a line per architecture named at its right end."""
    figure, axes = panel(7.2, 4.6)
    names = list(dict.fromkeys(row["architecture"] for row in rows))
    bases = list(dict.fromkeys(name.partition("+")[0] for name in names if name != "PCA"))
    dashes = {name: ("--", ":", "-.")[i % 3] for i, name in enumerate(n for n in names if "+" in n)}
    ends: list[tuple[float, float, str, str]] = []
    for name in names:
        own = sorted((row["l0"], row["nmse"]) for row in rows if row["architecture"] == name)
        base = name.partition("+")[0]  # a colour per activation, a dash per objective
        colour = NEVER if name == "PCA" else PALETTE[bases.index(base) % len(PALETTE)]
        marker = None if name == "PCA" else MARKERS[bases.index(base) % len(MARKERS)]
        axes.plot(
            *zip(*own, strict=True), dashes.get(name, "-"), color=colour, marker=marker, linewidth=1.4, markersize=5
        )
        ends.append((*own[-1], name, colour))
    axes.set(xscale="log", xlabel="L0: active latents per token, held-out (log scale)", ylabel="held-out NMSE")
    axes.set_title(title, fontsize=10, loc="left")
    highest = max(row["nmse"] for row in rows)
    axes.set_ylim(0, highest * 1.05)
    right = max(row["l0"] for row in rows) * 1.08
    axes.set_xlim(min(row["l0"] for row in rows) / 1.1, right * 1.9)
    for (x, y, name, colour), height in zip(ends, spread([end[1] for end in ends], highest / 24), strict=True):
        axes.annotate(
            name, (x, y), xytext=(right, height), va="center", color=colour, fontsize=9,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkB": 4, "relpos": (0, 0.5)},
        )  # fmt: skip
    axes.xaxis.set_major_locator(FixedLocator(list(WANTED)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    return figure


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved up as little as keeps them `gap` apart.

    >>> spread([1.0, 5.0, 1.5], 1.0)
    [1.0, 5.0, 2.0]
    """
    placed = list(heights)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    for below, above in itertools.pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="a recorded directory; without it the demo's birds")
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=500_000, help="to train on")
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--only", help="architectures, with commas between them")
    parser.add_argument("--l0", help="wanted numbers of active latents, with commas between them")
    parser.add_argument("--quick", action="store_true", help="few tokens and a small dictionary; orders nothing")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the expected order fails")
    parser.add_argument(
        "--out", type=Path, default=Path("frontier"), help="tables and plot go to OUT.csv, .md and .png"
    )
    args, more = parser.parse_known_args()
    names = args.only.split(",") if args.only else zoo.architectures()
    tokens, d_sae = (10_000, 512) if args.quick else (args.tokens, args.d_sae)
    wanted = WANTED[::2] if args.quick else [float(l0) for l0 in args.l0.split(",")] if args.l0 else WANTED
    data = [f"layer={args.layer}", *([f"dataset={args.dataset}"] if args.dataset else []), *SHORT]
    shared = [*data, f"n_tokens={tokens}", f"d_sae={d_sae}", f"dead_tokens={tokens // 8}", *more]
    with tempfile.TemporaryDirectory() as directory:
        rows = train(names, wanted, shared, Path(directory) / "run").to_dicts()
    rows += pca(data, wanted)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_csv(args.out.with_suffix(".csv"))
    args.out.with_suffix(".md").write_text(markdown(rows))
    title = f"d_sae {d_sae}, {tokens:,} training tokens"
    plot(rows, title).savefig(args.out.with_suffix(".png"), dpi=150)
    wrong = missed(rows)
    print(markdown(rows), *wrong, sep="\n")
    return int(args.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
