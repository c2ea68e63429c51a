"""The views of codes by latent and by image at full size: `python benchmarks/bench_views.py [--pairs 1e9] [--quick] [--check]`.

Random shards by token (16,384 latents, 32 of them on each token, frequencies log-uniform over a factor of 1000, 256 tokens an image,
2^19 tokens a shard) are written; then each view is written from them in a process of its own: seconds, pairs per second, how much memory
the process takes at its peak, and 20 latents and 20 images of it are compared with the shards. `--quick` writes 10^7 pairs. `--check`
exits with 1 where the memory is above its bound: that of the view by latent is its budget of 1 GiB and five times a
shard.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from saev.codes import by_image, by_latent
from saev.codes.arrays import array_path
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.selected_tokens import Selection

K, N_LATENTS, TOKENS, SHARD = 32, 16384, 256, 1 << 19


def write_shards(root: Path, n_images: int) -> None:
    """Codes by token of so many images, and an (empty) recording of as many tokens."""
    rng = np.random.default_rng(0)
    block = N_LATENTS // K  # a token has one latent of each block: no latent twice
    weight = np.exp(rng.uniform(np.log(1e-3), 0, (K, block)))
    cumulative = np.cumsum(weight / weight.sum(1, keepdims=True), 1)
    per_shard = SHARD // TOKENS
    writer = RecordingWriter(root / "data", {"images": "none"}, n_images, per_shard, [0], {"patches": TOKENS}, 1)
    for number in writer.pending():
        with writer.shard(number) as shard:
            for example in (examples := writer.examples_of(number)):
                shard.add(example, {0: np.zeros((TOKENS, 1), np.float16)}, {})
        n = len(examples) * TOKENS
        draws = rng.random((n, K), np.float32)
        latents = np.stack([np.searchsorted(cumulative[i], draws[:, i]) + i * block for i in range(K)], 1)
        np.save(array_path(root, number, "indptr"), np.arange(n + 1, dtype=np.int64) * K)
        np.save(array_path(root, number, "indices"), np.minimum(latents, N_LATENTS - 1).astype(np.int32).ravel())
        np.save(array_path(root, number, "values"), rng.gamma(2, size=n * K).astype(np.float16))
    writer.finish()


def write_view(root: Path, view: str, out) -> None:
    """Write one view and send (seconds, GiB that the peak of memory rose by)."""
    selection = selection_of(root)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, start = peak(), time.perf_counter()
    if view == "latent":
        by_latent.write_by_latent(root, N_LATENTS, selection.rows.tolist(), "float16")
    else:
        by_image.write_by_image(root, selection, N_LATENTS)
    out.send((time.perf_counter() - start, peak() - before))


def selection_of(root: Path) -> Selection:
    store = ActivationStore(root / "data")
    return Selection(store, 0, np.arange(store.manifest.n_examples), "patches")


def peak() -> float:
    """The most memory that this process had, GiB; ru_maxrss would be that of the process that started it, where it is larger."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def differing(root: Path) -> int:
    """Of 20 latents and 20 images those that differ from the shards, which are read once more."""
    rng, rows = np.random.default_rng(1), selection_of(root).rows.tolist()
    chosen = np.sort(rng.choice(N_LATENTS, 20, replace=False))
    images = np.sort(rng.choice(sum(rows) // TOKENS, 20, replace=False))
    expected, first, wrong = [[] for _ in chosen], 0, 0
    names = by_image.OFFSETS, by_image.LATENTS, "image_max.npy"
    offsets, latents, largest = (np.load(root / name, mmap_mode="r") for name in names)
    for shard, n in enumerate(rows):
        indices, values = (np.load(array_path(root, shard, name)) for name in ("indices", "values"))
        for number, latent in enumerate(chosen):
            expected[number].append(first + np.flatnonzero(indices == latent) // K)
        for image in images[(images * TOKENS >= first) & (images * TOKENS < first + n)]:
            start = (image * TOKENS - first) * K
            part = slice(start, start + TOKENS * K)
            pooled = np.full(N_LATENTS, -np.inf, np.float32)
            np.maximum.at(pooled, indices[part], values[part].astype(np.float32))
            stored = slice(int(offsets[image]), int(offsets[image + 1]))
            fires = np.flatnonzero(np.isfinite(pooled))
            wrong += not (np.array_equal(latents[stored], fires) and np.array_equal(largest[stored], pooled[fires]))
        first += n
    starts, stored = np.load(root / by_latent.OFFSETS), np.load(root / by_latent.ROWS, mmap_mode="r")
    return wrong + sum(
        not np.array_equal(stored[starts[latent] : starts[latent + 1]], np.concatenate(parts))
        for latent, parts in zip(chosen, expected, strict=True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, default=1e8)
    parser.add_argument("--quick", action="store_true", help="10^7 pairs")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bound is exceeded")
    options = parser.parse_args()
    n_images = round((1e7 if options.quick else options.pairs) / K / TOKENS)
    shard = SHARD * K * 6 / 2**30  # GiB
    bounds = {"latent": by_latent.BUDGET / 2**30 + 5 * shard, "image": 4 * shard + 1}
    table = Table("view", "s", "M pairs/s", "memory, GiB", "bound", title=f"{n_images * TOKENS * K:.3g} pairs")
    context, exceeded = multiprocessing.get_context("spawn"), False
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_shards(root, n_images)
        for view, bound in bounds.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=write_view, args=(root, view, theirs))
            process.start()
            seconds, gib = ours.recv()
            process.join()
            exceeded |= gib > bound
            rate = n_images * TOKENS * K / seconds / 1e6
            table.add_row(view, f"{seconds:.1f}", f"{rate:.1f}", f"{gib:.2f}", f"{bound:.2f}")
        wrong = differing(root)
    Console().print(table)
    Console().print(f"{wrong} of 20 latents and 20 images differ from the shards")
    return int(wrong > 0 or (options.check and exceeded))


if __name__ == "__main__":
    sys.exit(main())
