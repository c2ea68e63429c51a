"""Writing activations beside webdataset's TarWriter: `python benchmarks/bench_write.py [--quick] [--check] [--dir /a/disk]`.

Images of 256 tokens x 1024 float16 values. All contenders write the same values in one process, in turns that change their
order; a row shows medians of bytes per second and of the ratios. Ours always includes sha256, moments, index and fsync:

    TarWriter             webdataset's, alone: no sum, no statistic, no fsync
    TarWriter and sums    what ours does, in plain lines: TarWriter, moments by NumPy, fsync, sha256 of the file
What is written is read back and compared before anything is timed.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from webdataset.writer import TarWriter

from saev.shards import ActivationStore, RecordingWriter

TOKENS, D_MODEL, PER_SHARD, DISTINCT = 256, 1024, 256, 64
Contender = Callable[[Path, int], None]


def images(layer: int) -> np.ndarray:
    """Distinct activations that are written again and again."""
    return np.random.default_rng(layer).normal(size=(DISTINCT, TOKENS, D_MODEL)).astype(np.float16)


ACTS = {layer: images(layer) for layer in range(4)}


def tar_writer(root: Path, n: int) -> None:
    for shard in range(n // PER_SHARD):
        with TarWriter(str(root / f"{shard:06d}.tar")) as sink:
            for i in range(PER_SHARD):
                sink.write({"__key__": f"{i:09d}", "acts.npy": ACTS[0][i % DISTINCT]})


def tar_writer_and_sums(root: Path, n: int) -> None:
    tar_writer(root, n)
    for path in sorted(root.glob("*.tar")):
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
            hashlib.file_digest(file, "sha256").hexdigest()
    for i in range(n):
        x = ACTS[0][i % DISTINCT].astype(np.float64)
        assert np.linalg.norm(x, axis=1).sum() > 0 and x.mean(0).any() and x.var(0).any()


def ours(root: Path, n: int, layers: int = 1) -> None:
    writer = RecordingWriter(
        root / "acts", {}, n // layers, PER_SHARD // layers, range(layers), {"patches": TOKENS}, D_MODEL
    )
    for shard in writer.pending():
        with writer.shard(shard) as out:
            for i in writer.examples_of(shard):
                out.add(i, {layer: ACTS[layer][i % DISTINCT] for layer in range(layers)}, {"path": str(i)})
    writer.finish()


def verify(folder: Path) -> None:
    """What ours has written is what was given, for each of its files."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ours(Path(scratch), 2 * PER_SHARD, layers=2)
        store = ActivationStore(Path(scratch) / "acts")
        assert not store.verify()
        for layer in store.layers:
            for i in range(store.manifest.n_examples):
                assert np.array_equal(store.read(layer, i), ACTS[layer][i % DISTINCT])
            rows = ACTS[layer].reshape(-1, D_MODEL).astype(np.float64)
            np.testing.assert_allclose(store.moments(layer).variance, rows.var(0), rtol=1e-6)


def rates(contenders: Mapping[str, Contender], folder: Path, n: int, rounds: int) -> dict[str, list[float]]:
    """GB/s of each contender in each round; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in list(contenders)[:: 1 if number % 2 else -1]:
            scratch = Path(tempfile.mkdtemp(dir=folder))
            start = time.perf_counter()
            contenders[name](scratch, n)
            seconds = time.perf_counter() - start
            shutil.rmtree(scratch)
            os.sync()  # nobody pays for the pages that another has left
            if number:
                found[name].append(n * ACTS[0][0].nbytes / seconds / 1e9)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a gigabyte a round instead of two")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--dir", type=Path, help="where to write; the system's folder of temporary files if not given")
    args = parser.parse_args()
    torch.set_num_threads(1)
    n, before = (4 if args.quick else 16) * PER_SHARD, os.getloadavg()[0]
    contenders: dict[str, Contender] = {
        "TarWriter": tar_writer,
        "TarWriter and sums": tar_writer_and_sums,
        "ours": ours,
        "ours, 4 layers": lambda root, n: ours(root, n, layers=4),
    }
    with tempfile.TemporaryDirectory(dir=args.dir) as scratch:
        verify(Path(scratch))
        found = rates(contenders, Path(scratch), n, 3)
    table = Table(
        "writer", "GB/s", "beside", "GB/s", "ratio", "goal",
        title=f"[{TOKENS}, {D_MODEL}] float16, {n} images, {os.cpu_count()} CPU cores, load before {before:.1f}",
    )  # fmt: skip
    missed = 0
    for name, reference, goal in (
        ("ours", "TarWriter", 4.0),
        ("ours", "TarWriter and sums", 4.0),
        ("ours, 4 layers", "TarWriter", 4.0),
    ):
        ratio = statistics.median(a / b for a, b in zip(found[name], found[reference], strict=True))
        missed += ratio < goal
        both = [f"{statistics.median(found[key]):.2f}" for key in (name, reference)]
        table.add_row(
            name, both[0], reference, both[1], f"{ratio:.2f}", f"{goal:.1f}", style="red" if ratio < goal else None
        )
    Console().print(table)
    return int(args.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
