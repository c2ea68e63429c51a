"""k-means beside faiss and scikit-learn: `python benchmarks/bench_kmeans.py [--dataset DIR] [--quick] [--check]`.

On one layer's tokens (`--dataset`, a recording; else a synthetic world's): (1) as many Lloyd iterations as faiss from the
same centroids, timed a pass in turn; (2) the whole fit until it is as good as MiniBatchKMeans ends; (3) the whole fit's
inertia beside scikit-learn's KMeans. Times are CPU seconds on one thread, which neighbours disturb least. `--check` exits
with 1 where a goal is missed.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans as FullKMeans
from sklearn.cluster import MiniBatchKMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks.synthetic import Law, World
from saev.baselines.kmeans import KMeansFitter
from saev.baselines.nearest import nearest
from saev.nn import Normaliser
from saev.shards import ActivationStore, Moments

BATCH = 16384
Row = tuple[str, str, float, str, float, bool]  # what, measured, value, relation, goal, reached


def tokens(dataset: Path | None, layer: int | None, most: int) -> Tensor:
    """At most so many tokens of a recording, or of a synthetic world, shuffled and normalised."""
    if dataset is None:
        world = World(Law(n_features=2048, d_model=384, roots=16, separation=(0, 0.0)))
        x = torch.cat([world.batch(k, 4096).x for k in range(-(-most // 4096))])
    else:
        store = ActivationStore(dataset)
        layer = store.layers[-1] if layer is None else layer
        x = torch.from_numpy(np.concatenate([store.read(layer, i) for i in range(store.manifest.n_examples)]))
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))][:most]
    return Normaliser.fit(Moments.of(x.numpy()))(x).contiguous()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def started(z: Tensor, k: int, passes: int, tol: float = 0.0) -> KMeansFitter:
    fitter = KMeansFitter(k, passes=passes, tol=tol)
    fitter.start(Normaliser(torch.zeros(z.shape[1]), torch.ones(())), z[: fitter.sample_tokens], len(z))
    return fitter


def one_pass(fitter: KMeansFitter, z: Tensor) -> None:
    for part, token in zip(z.split(BATCH), torch.arange(len(z)).split(BATCH), strict=True):
        fitter.update(part, token)
    fitter.finish_pass()


def inertia(z: Tensor, centroids: Tensor) -> float:
    return float(nearest(z, centroids)[1].double().mean())


def lloyd(z: Tensor, k: int, passes: int) -> Row:
    """Equal iterations of faiss's own loop, pass by pass in turn; both end at the same inertia."""
    fitter, x, times = started(z, k, passes), z.numpy(), []
    centroids = fitter.centroids.numpy().copy()
    for _ in range(passes):
        theirs = faiss.Kmeans(z.shape[1], k, niter=1, min_points_per_centroid=1, max_points_per_centroid=len(z))
        a = seconds(partial(theirs.train, x, init_centroids=centroids))
        times.append((a, seconds(lambda: one_pass(fitter, z))))
        centroids = theirs.centroids.copy()
    apart = inertia(z, fitter.centroids) / inertia(z, torch.from_numpy(centroids)) - 1
    a, b = np.median(times, axis=0)
    words = f"ours {b:.2f} s, faiss {a:.2f} s a pass; inertia {apart:+.1e}"
    return f"K={k}: Lloyd passes", words, a / b, "x at least", 1.3, a / b >= 1.3 and abs(apart) < 1e-3


def whole(z: Tensor, k: int, passes: int, references: int, full: bool) -> list[Row]:
    """The whole fit beside MiniBatchKMeans (time to its inertia) and, where asked for, the full method's inertia."""
    x = z.numpy()
    mini = MiniBatchKMeans(k, batch_size=4096, n_init=1, random_state=0)
    theirs = seconds(lambda: mini.fit(x))
    goal = inertia(z, torch.from_numpy(mini.cluster_centers_))
    begun: list[KMeansFitter] = []
    spent, reached = seconds(lambda: begun.append(started(z, k, passes))), None
    fitter = begun[0]
    for _ in range(passes):
        if reached is None and inertia(z, fitter.centroids) <= goal:
            reached = spent
        spent += seconds(lambda: one_pass(fitter, z))
    ours = inertia(z, fitter.centroids)
    reached = reached or (spent if ours <= goal else float("inf"))
    words = f"ours {reached:.1f} s, theirs {theirs:.1f} s to {goal:.2f}"
    rows: list[Row] = [
        (f"K={k}: MiniBatchKMeans, time", words, theirs / reached, "x at least", 3.0, theirs >= 3 * reached),
        (f"K={k}: MiniBatchKMeans, inertia", f"{passes} passes", ours / goal, "at most", 1.0, ours <= goal),
    ]
    if full:
        reference = FullKMeans(k, n_init=references, random_state=0).fit(x).inertia_ / len(x)
        words = f"ours {ours:.2f}, theirs {reference:.2f} (best of {references})"
        rows.append((f"K={k}: KMeans, inertia", words, ours / reference, "at most", 1.01, ours <= 1.01 * reference))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="a recording (default: synthetic)")
    parser.add_argument("--layer", type=int, help="default: the last recorded one")
    parser.add_argument("--tokens", type=int, default=256_000, help="at most")
    parser.add_argument("--k", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--no-full", action="store_true", help="without scikit-learn's KMeans, which takes minutes")
    parser.add_argument("--quick", action="store_true", help="32768 tokens, K=256, 6 passes: under a minute")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    args = parser.parse_args()
    if args.quick:
        args.tokens, args.k, args.passes = 32768, [256], 6
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    found: list[Row] = []
    with threadpool_limits(1):
        z = tokens(args.dataset, args.layer, args.tokens)
        for k in args.k:
            found.append(lloyd(z, k, args.passes))
            references = 3 if k <= 256 and not args.quick else 1
            found += whole(z, k, args.passes, references, not args.no_full)
    title = f"{len(z)} tokens of {z.shape[1]}, one thread, CPU seconds, load {os.getloadavg()[0]:.1f}"
    table = Table("what", "measured", "value", "", "goal", title=title)
    for what, measured, value, relation, goal, reached in found:
        table.add_row(what, measured, f"{value:.3f}", relation, f"{goal}", style=None if reached else "red")
    Console(width=140).print(table)
    return int(args.check and not all(row[-1] for row in found))


if __name__ == "__main__":
    sys.exit(main())
