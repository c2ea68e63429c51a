"""k-means beside faiss and scikit-learn: `python benchmarks/bench_kmeans.py [--dataset DIR] [--quick] [--check]`.

On one layer's tokens (`--dataset`, a recording; else a synthetic world's): the whole fit, timed until it is as good (1) as
faiss on all tokens within 0.1 % of where its default of 25 iterations ends and (2) as MiniBatchKMeans at its end; (3) the
whole fit's inertia beside scikit-learn's KMeans; and, without a goal, one of our passes beside one of faiss's, both exact, in
turn. Times are CPU seconds on one thread, which neighbours disturb least. `--check` exits with 1 where a goal is missed.
"""

import argparse
import math
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
from saev.baselines import KMeans
from saev.baselines.kmeans import KMeansFitter
from saev.baselines.nearest import nearest
from saev.nn import Normaliser
from saev.shards import ActivationStore, Moments

BATCH = 16384
SAME = 1.001  # an inertia above another by less than this counts as equal to it: other starts differ by more
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
    fitter = KMeansFitter(KMeans(k, passes=passes, tol=tol))
    fitter.start(Normaliser(torch.zeros(z.shape[1]), torch.ones(())), z[: fitter.sample_tokens], len(z))
    return fitter


def one_pass(fitter: KMeansFitter, z: Tensor) -> None:
    for part, token in zip(z.split(BATCH), torch.arange(len(z)).split(BATCH), strict=True):
        fitter.update(part, token)
    fitter.finish_pass()


def inertia(z: Tensor, centroids: Tensor) -> float:
    return float(nearest(z, centroids)[1].double().mean())


def passes_in_turn(z: Tensor, k: int, passes: int) -> Row:
    """One pass of ours and one of faiss's, from the same centroids; without a goal: both spend it on the same product."""
    fitter, x, times = started(z, k, passes), z.numpy(), []
    for _ in range(passes):
        theirs = faiss.Kmeans(z.shape[1], k, niter=1, min_points_per_centroid=1, max_points_per_centroid=len(z))
        a = seconds(partial(theirs.train, x, init_centroids=fitter.centroids.numpy()))
        times.append((a, seconds(lambda: one_pass(fitter, z))))
    a, b = np.median(times, axis=0)
    return f"K={k}: a pass, faiss's / ours", f"ours {b:.2f} s, faiss {a:.2f} s", a / b, "x, no goal", 0.0, True


def reached(z: Tensor, k: int, passes: int, goals: dict[str, float]) -> tuple[dict[str, float], float]:
    """Seconds until the fit's centroids have at most each of these inertias (inf: never), and the inertia at its end."""
    begun: list[KMeansFitter] = []
    spent = seconds(lambda: begun.append(started(z, k, passes)))
    fitter, found, now = begun[0], {}, math.inf
    for i in range(passes + 1):
        now = inertia(z, fitter.means)
        found |= {name: spent for name, goal in goals.items() if name not in found and now <= goal}
        if i < passes:
            spent += seconds(lambda: one_pass(fitter, z))
    return dict.fromkeys(goals, math.inf) | found, now


def whole(z: Tensor, k: int, passes: int, references: int, full: bool) -> list[Row]:
    """The whole fit beside faiss's and MiniBatchKMeans' and, where asked for, the full method's inertia."""
    x = z.numpy()
    theirs = faiss.Kmeans(z.shape[1], k, niter=25, seed=0, min_points_per_centroid=1, max_points_per_centroid=len(z))
    mini = MiniBatchKMeans(k, batch_size=4096, n_init=1, random_state=0)
    times = {"faiss": seconds(lambda: theirs.train(x)), "MiniBatchKMeans": seconds(lambda: mini.fit(x))}
    steps = np.array(theirs.obj) / len(z)  # before each iteration
    goals = {"faiss": SAME * steps[-1], "MiniBatchKMeans": inertia(z, torch.from_numpy(mini.cluster_centers_))}
    times["faiss"] *= int((steps > goals["faiss"]).sum()) / len(steps)  # the iterations after that are not counted
    until, ours = reached(z, k, passes, goals)
    rows: list[Row] = []
    for name, least in (("faiss", 1.3), ("MiniBatchKMeans", 3.0)):
        words = f"ours {until[name]:.1f} s, theirs {times[name]:.1f} s to {goals[name]:.2f}"
        faster = times[name] / until[name]
        rows.append((f"K={k}: {name}, time to its inertia", words, faster, "x at least", least, faster >= least))
    share = ours / goals["MiniBatchKMeans"]
    rows.append((f"K={k}: MiniBatchKMeans, inertia", f"{passes} passes", share, "at most", 1.0, share <= 1))
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
    parser.add_argument("--passes", type=int, default=20)
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
            found.append(passes_in_turn(z, k, 3))
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
