"""One recording, and where its time goes: seconds in its functions, summed over threads."""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from saev.shards import RecordingWriter
from saev.shards.layer_shard import LayerShard
from saev.vits import Recording
from saev.vits.image_loader import ImageLoader
from saev.vits.recording_pass import RecordingPass
from saev.vits.shard_threads import ShardThreads
from saev.vits.transfers import HostCopy, Transfers

# by thread: the loaders', the main one, the shards', and the three of a layer
STEPS = (
    (ImageLoader, "__call__", "decode"),
    (Transfers, "upload", "thread: stack, upload"),
    (RecordingPass, "_compute", "main: forward"),
    (Transfers, "download", "main: narrow, download"),
    (ShardThreads, "start", "main: waits for shards"),
    (ShardThreads, "append", "main: waits for shards"),
    (HostCopy, "arrays", "shard: waits for copies"),
    (LayerShard, "add", "shard: convert, copy, wait for blocks"),
    (LayerShard, "commit", "shard: fsync, rename"),
    (LayerShard, "_hash", "layer: hash"),
    (LayerShard, "_write", "layer: write"),
    (LayerShard, "_sum", "layer: moments"),
)


@contextmanager
def times() -> Iterator[Counter[str]]:
    """Seconds by step of the recordings made within the block."""
    seconds: Counter[str] = Counter()

    def timed(call: Callable[..., Any], step: str) -> Callable[..., Any]:
        @wraps(call)
        def measured(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[step] += time.perf_counter() - start

        return measured

    def waiting(loaded: Callable[..., Generator]) -> Callable[..., Generator]:
        def measured(*args: Any) -> Generator:
            stream = loaded(*args)
            take = timed(stream.__next__, "main: waits for images")
            try:
                while True:
                    yield take()
            except StopIteration:
                return
            finally:
                stream.close()

        return measured

    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in STEPS]
    originals.append((RecordingPass, "_loaded", RecordingPass._loaded))
    for owner, name, step in STEPS:
        setattr(owner, name, timed(getattr(owner, name), step))
    RecordingPass._loaded = waiting(RecordingPass._loaded)
    try:
        yield seconds
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def writer_of(recording: Recording, root: Path) -> RecordingWriter:
    """An empty recording in `root`."""
    plan = recording.plan
    per_shard = plan.examples_per_shard(recording.settings.shard_mb)
    return RecordingWriter(
        root,
        plan.meaning,
        plan.n_images,
        per_shard,
        plan.layers,
        plan.roles,
        plan.shape.d_model,
        recording.settings.dtype,
    )


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes, the device's work included."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def record(recording: Recording, recording_pass: RecordingPass, after: Callable[[], None] = lambda: None) -> float:
    """Seconds of recording into a temporary folder, and of `after`."""
    root = Path(tempfile.mkdtemp(dir=recording.root))
    writer = writer_of(recording, root / "acts")

    def whole() -> None:
        recording_pass.fill(writer, writer.pending(), Console(quiet=True), False)
        writer.finish()
        after()

    try:
        return timed(whole)
    finally:
        shutil.rmtree(root)


def print_steps(steps: Counter[str], seconds: float) -> None:
    """Print seconds by step, summed over threads, beside those of the whole recording."""
    print(f"{seconds:.2f} s, of which (seconds of each thread that does it, summed)")
    for step, spent in steps.items():
        print(f"    {step:40s}{spent:8.2f}")
