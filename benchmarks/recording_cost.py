"""What recording costs beyond the forward passes it cannot do without: decoding, resizing, writing.

    forward   the same pictures, decoded beforehand, through the backbone in the same batches
    record    `RecordingPass.fill`: decode, resize, forward, store (the weights are loaded beforehand)
Both in one process, in turns that change their order; the quotient of the medians is what is to be at most 1.1.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from saev.images import FolderImages
from saev.shards import RecordingWriter
from saev.vits import MicroVit, Recording, TimmVit
from saev.vits.batching import chunks
from saev.vits.recording_pass import RecordingPass


def writer_of(recording: Recording, root: Path) -> RecordingWriter:
    """An empty recording in `root`."""
    plan = recording.plan
    per_shard = plan.examples_per_shard(recording.shard_mb)
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


def compare(recording: Recording, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the forward passes alone and of the whole recording, for each round."""
    recording_pass: RecordingPass = recording._recording_pass()
    items = [recording_pass.loader(index) for index in range(recording.plan.n_images)]
    batches = [[items[at] for at in batch] for batch in chunks(range(len(items)), recording.settings.batch_size)]
    alone: list[float] = []
    whole: list[float] = []

    def forward() -> None:
        for batch in batches:
            list(recording_pass._passes(batch, recording.settings.batch_size))

    def record() -> None:
        root = Path(tempfile.mkdtemp(dir=recording.root))
        try:
            writer = writer_of(recording, root / "acts")
            recording_pass.fill(writer, writer.pending(), Console(quiet=True), False)
            writer.finish()
        finally:
            shutil.rmtree(root)

    forward()  # warm
    for number in range(rounds):
        turns = [(forward, alone), (record, whole)]
        for call, seconds in turns[:: 1 if number % 2 else -1]:
            seconds.append(timed(call))
    return alone, whole


def main() -> None:
    """Print the seconds of each round and the quotient."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="folder of pictures")
    parser.add_argument("--weights", help="a file for vit_small_patch14_dinov2; without one, a tiny random ViT")
    parser.add_argument("--n", type=int, default=96, help="pictures")
    parser.add_argument("--img-size", type=int, default=112)
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[None], help="decoding threads to try")
    args = parser.parse_args()
    arch = "vit_small_patch14_dinov2"
    vit = (
        TimmVit(name="dinov2", arch=arch, checkpoint=args.weights, img_size=args.img_size)
        if args.weights
        else MicroVit(img_size=args.img_size, depth=12, d_model=64)
    )
    with tempfile.TemporaryDirectory() as root, tempfile.TemporaryDirectory() as some:
        everything = FolderImages(root=args.images)
        for path in everything.paths()[: args.n]:
            (Path(some) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(some) / path).symlink_to(Path(args.images).resolve() / path)
        images = FolderImages(root=some, name="some")
        for workers in args.workers:
            recording = Recording(
                images=images, vit=vit, layers=args.layer, root=root, n_workers=workers, batch_size=args.batch_size
            )
            alone, whole = compare(recording, args.rounds)
            ratio = statistics.median(whole) / statistics.median(alone)
            threads = recording._recording_pass().n_workers
            print(
                f"decoding threads {threads}, torch {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}: "
                f"forward {' '.join(f'{s:.2f}' for s in alone)} s, record {' '.join(f'{s:.2f}' for s in whole)} s, "
                f"record / forward {ratio:.2f} (goal 1.1)"
            )


if __name__ == "__main__":
    main()
