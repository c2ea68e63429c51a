"""A bank of SAEs from the command to its results: `python benchmarks/bench_bank.py [--device cuda] [--quick]`.

Activations are recorded noise that fits the page cache, read again each epoch; `train.py` trains `--members` TopK SAEs on them in
one job. Wall seconds include imports and kernels' compilation; 100 M tokens are extrapolated from tokens per second between logging steps.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).parent))
from goals import print_goals
from sweep_steps import ROOT, TOKENS, record

GOAL_S = 180  # of training, for ten SAEs on 100 M tokens


def command(dataset: Path, members: int, d_sae: int, batch: int, n_tokens: int, device: str, out: Path) -> list[str]:
    """The training run, as a user would type it."""
    variants = ",".join(f'["k={32 + i}"]' for i in range(members))
    trainer = "gpu" if device == "cuda" else "cpu"
    pool = max(1 << 20 if device == "cuda" else 0, 4 * batch)
    return [
        sys.executable, "train.py", "experiment=none", f"dataset={dataset}", "layer=0", "sae=topk", f"variants=[{variants}]",
        f"d_sae={d_sae}", f"batch_size={batch}", f"n_tokens={n_tokens}", "val_every=1000000", "log_every=10", "logger=none",
        "report=false", "init=random", f"trainer={trainer}", f"datamodule.pool={pool}", "datamodule.val_fraction=0.02",
        f"hydra.run.dir={out}",
    ]  # fmt: skip


def main() -> None:
    """Print the table of goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a few steps of narrow SAEs")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    args = parser.parse_args()
    # d_model, d_sae, batch, tokens recorded, tokens trained on
    d_model, d_sae, batch, recorded, trained = (1024, 16384, 16384, 1 << 20, 400 * 16384)
    if args.quick or args.device == "cpu":
        d_model, d_sae, batch, recorded, trained = 64, 512, 512, 8192, 40 * 512
    with tempfile.TemporaryDirectory() as folder:
        dataset, out = record(Path(folder) / "noise", d_model, recorded // TOKENS), Path(folder) / "run"
        start = time.perf_counter()
        argv = command(dataset, args.members, d_sae, batch, trained, args.device, out)
        subprocess.run(argv, cwd=ROOT, env=os.environ | {"SAEV_OUTPUTS": folder}, check=True)
        wall = time.perf_counter() - start
        speed = float(pl.read_parquet(out / "results.parquet")["tokens_per_s"][0])
    seconds = 1e8 / speed
    what = (
        f"{trained / 1e6:.3g} M tokens in {wall:.0f} s with start-up, {speed:,.0f} tokens/s; seconds for 100 M tokens"
    )
    full = not args.quick and args.device == "cuda"
    goal, reached = (str(GOAL_S), seconds <= GOAL_S) if full else ("", True)
    title = f"{args.members} TopK SAEs, d_model {d_model}, d_sae {d_sae}, batch {batch}, {args.device}"
    print_goals([(what, f"{seconds:.0f}", goal, reached)], args.check, title)


if __name__ == "__main__":
    main()
