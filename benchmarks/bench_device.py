"""Encoding, evaluation, probes' counts, pooling and k-means on a device: `python benchmarks/bench_device.py [--device cuda] [--quick]`.

Tokens per second of one TopK dictionary with random weights over synthetic activations in the page cache, reading included; only
pairs, sums and pooled rows reach the host, and no array of tokens by latents. `--device cpu` is the comparison.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.bench_encode import Encoding, record
from benchmarks.bench_kmeans import one_pass, started
from saev.codes.encoding import on_device
from saev.codes.pairs import sparse_codes
from saev.dictionary import Scorer
from saev.evaluation.measuring import measure
from saev.probing.counts.statistics import LatentLabelStats
from saev.scoring.pooling import pooled_scores
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection

BATCH, CLASSES, CENTROIDS = 4096, 32, 1024


def main() -> None:
    """Print a row per verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="few tokens of small width")
    args = parser.parse_args()
    d_model, expansion, images = (1024, 16, 512) if args.device == "cuda" and not args.quick else (64, 8, 32)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        store = ActivationStore(record(Path(folder) / "data", images, d_model))
        selection = Selection(store, 0, np.arange(images))
        work = Encoding("topk", selection, expansion, Path(folder))
        work.sae.to(args.device)
        stats = LatentLabelStats(work.sae.n_latents, CLASSES).to(args.device)
        z = torch.cat(work.batches).float().to(args.device)
        fitter = started(z, CENTROIDS if args.device == "cuda" else 64, 4)

        def count() -> None:
            for batch in selection.batches(0, BATCH):
                codes = sparse_codes(work.sae, on_device(batch, work.sae))
                stats.update(codes, torch.from_numpy(batch["example"] % CLASSES).to(args.device))

        def pool() -> None:
            pooled_scores({"it": Scorer(work.sae)}, selection, {"it": "max"}, BATCH, args.device)

        rows: list[tuple[str, Callable[[], object], int]] = [
            ("encode: pairs to disk", lambda: work.encode("token"), len(z)),
            ("evaluate", lambda: measure({"it": work.sae}, selection, BATCH, args.device), len(z)),
            ("probe: counts of the first shard", count, int(selection.rows[0])),
            ("traits: codes pooled by image", pool, len(z)),
            (f"k-means: a pass, {fitter.means.shape[0]} centroids", lambda: one_pass(fitter, z), len(z)),
        ]
        title = f"{len(z)} tokens, d_model {d_model}, d_sae {work.sae.n_latents}, {args.device}"
        table = Table("what", "tokens/s", title=title)
        for what, call, n_tokens in rows:
            table.add_row(what, f"{n_tokens / seconds(call):,.0f}")
    Console().print(table)


def seconds(call: Callable[[], object]) -> float:
    """Of the second call, the device's work included."""
    spent = 0.0
    for _ in range(2):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent = time.perf_counter() - start
    return spent


if __name__ == "__main__":
    main()
