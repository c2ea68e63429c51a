"""What recording costs beside the forward passes that it needs, and where its time goes.

    forward   the same pictures, decoded and copied to the device beforehand, through the backbone in the same batches
    record    `RecordingPass.fill` and `finish`: decode, resize, forward, store (the weights are loaded beforehand)
Both in one process, in turns that change their order. On a CPU the quotient of the rates is to be at most 1.1. With `--device cuda`
a ViT-L's images/s are to be at least 0.8 of those of its bare forward pass with weights in bfloat16, and a ViT-S is to be written at
1 GB/s. With `--stub` the backbone computes nothing at a set speed, as a GPU would: recording is to run at 0.95 of that.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections import Counter, deque
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from goals import Row, print_goals
from recording_stub import StubImages, stub_rows
from recording_times import print_steps, record, timed, times

from saev.images import FolderImages, ImageSource
from saev.vits import MicroVit, Recording, TimmVit
from saev.vits.batching import chunks
from saev.vits.recording_pass import Batch
from saev.vits.source import VitSource

FORWARD_IMAGES = 2048  # at most, decoded beforehand
# architecture, layer, images, decoding, compiled; the time that processes take to start is part of that of the recording
ON_GPU = (
    ("vit_large_patch16_dinov3", 23, 10_000, "threads", False),
    ("vit_large_patch16_dinov3", 23, 10_000, "threads", True),
    ("vit_small_patch16_dinov3", 11, 60_000, "threads", False),
    ("vit_small_patch16_dinov3", 11, 60_000, "processes", False),
    ("vit_small_patch16_dinov3", 11, 60_000, "processes", True),
)


def compare(recording: Recording, rounds: int) -> tuple[list[float], list[float], Counter[str]]:
    """images/s of the forward passes alone and of the whole recording, for each round, and seconds by step of the last one."""
    recording_pass, n, size = recording.recording_pass(), recording.plan.n_images, recording.settings.batch_size
    items = [recording_pass.loader(index) for index in range(min(n, FORWARD_IMAGES))]
    loaded = [[items[at] for at in batch] for batch in chunks(range(len(items)), size)]
    batches = [Batch(images, recording_pass._uploads(images, size)) for images in loaded]
    alone: list[float] = []
    whole: list[float] = []
    steps: Counter[str] = Counter()

    @torch.inference_mode()
    def forward() -> float:
        return timed(
            lambda: deque(
                (recording_pass._compute(upload.wait()) for batch in batches for _, upload in batch.passes), 0
            )
        )

    def recorded() -> float:
        with times() as spent:
            seconds = record(recording, recording_pass)
        steps.update(spent)
        return seconds

    forward()  # warm
    if recording.settings.compile:
        recorded()  # the sizes of the last batches of shards are compiled, too
    for number in range(rounds):
        steps.clear()
        turns = [(forward, alone, len(items)), (recorded, whole, n)]
        for call, rates, images in turns[:: 1 if number % 2 else -1]:
            rates.append(images / call())
    return alone, whole, steps


def bare(recording: Recording) -> float:
    """images/s of the forward pass with the weights in bfloat16, on a batch that is on the device."""
    backbone, size = recording.vit.load("cuda").bfloat16(), recording.settings.batch_size
    batch = torch.randn(size, 3, *recording.plan.shape.image_size, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        timed(lambda: [backbone(batch, recording.plan.layers) for _ in range(5)])
        return 50 * size / timed(lambda: [backbone(batch, recording.plan.layers) for _ in range(50)])


def gpu_rows(root: str, args: argparse.Namespace) -> list[Row]:
    """A ViT-L's rate beside its bare forward pass, and a ViT-S's bytes per second."""
    rows = []
    for arch, layer, n, decoding, compiled in ON_GPU:
        if args.quick and (decoding, compiled) != ("threads", False):
            continue
        vit = TimmVit(arch=arch, img_size=256, random_weights=True)
        images = FolderImages(root=args.images) if args.images else StubImages(n=args.n or n, size=256)
        knobs = {"n_workers": args.workers[0], "batch_size": args.batch_size, "decoding": decoding, "compile": compiled}
        recording = Recording(images, vit, layer, root, **knobs)
        alone, whole, steps = compare(recording, args.rounds)
        print_steps(steps, recording.plan.n_images / whole[-1])
        rate, reference = statistics.median(whole), bare(recording)
        written = rate * recording.plan.image_bytes / 1e9
        what = f"{arch}, {decoding}, {'compiled, ' * compiled}{rate:.0f} images/s, forward as recorded {statistics.median(alone):.0f}"
        if "large" in arch:
            what, value, goal = f"{what}, bare bfloat16 {reference:.0f}; record / bare", rate / reference, 0.8
        else:
            what, value, goal = f"{what}; GB/s written", written, 1.0
        rows.append((what, f"{value:.2f}", f"{goal}", value >= goal))
    return rows


def cpu_rows(root: str, args: argparse.Namespace) -> list[Row]:
    """Seconds of recording beside those of the forward passes."""
    arch, rows, n = "vit_small_patch14_dinov2", [], args.n or 96
    vit: VitSource = MicroVit(img_size=args.img_size, depth=12, d_model=64)
    if args.weights:
        vit = TimmVit(name="dinov2", arch=arch, checkpoint=args.weights, img_size=args.img_size)
    images: ImageSource = StubImages(n=n, size=args.img_size)
    if args.images:
        chosen = Path(root, "images")
        for path in FolderImages(root=args.images).paths()[:n]:
            (chosen / path).parent.mkdir(parents=True, exist_ok=True)
            (chosen / path).symlink_to(Path(args.images).resolve() / path)
        images = FolderImages(root=chosen)
    for workers in args.workers:
        recording = Recording(
            images, vit, args.layer, root, n_workers=workers, batch_size=args.batch_size, device="cpu"
        )
        alone, whole, steps = compare(recording, args.rounds)
        print_steps(steps, n / whole[-1])
        ratio = statistics.median(alone) / statistics.median(whole)
        rates = " ".join(f"{rate:.1f}" for rate in alone), " ".join(f"{rate:.1f}" for rate in whole)
        what = (
            f"images/s: forward {rates[0]}, record {rates[1]}, {recording.recording_pass().n_workers} decoding threads"
        )
        rows.append((f"{what}; forward / record", f"{ratio:.2f}", "1.1", ratio <= 1.1))
    return rows


def main() -> None:
    """Print seconds by step and the table of goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--stub", action="store_true", help="a backbone that computes nothing at a set speed, on the CPU"
    )
    parser.add_argument("--quick", action="store_true", help="5 s a stub; on a GPU threads alone, nothing compiled")
    parser.add_argument("--images", help="folder of pictures; without one, generated JPEGs in memory")
    parser.add_argument("--weights", help="a file for vit_small_patch14_dinov2; without one, a tiny random ViT")
    parser.add_argument("--n", type=int, help="pictures; 96 on a CPU, more on a GPU")
    parser.add_argument("--img-size", type=int, default=112)
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[None], help="decoding threads to try")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    args = parser.parse_args()
    title = f"{os.cpu_count()} CPU cores, torch threads {torch.get_num_threads()}, load before {os.getloadavg()[0]:.1f}"
    with tempfile.TemporaryDirectory() as root:
        if args.stub:
            rows = stub_rows(root, 5 if args.quick else 20)
        elif args.device == "cuda":
            rows = gpu_rows(root, args)
        else:
            rows = cpu_rows(root, args)
    print_goals(rows, args.check, title)


if __name__ == "__main__":
    main()
