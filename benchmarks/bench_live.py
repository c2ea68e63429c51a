"""Training with and without storing: what the backbone, the disk and the stream give.

    live     `datamodule.reader=live`: images through the backbone into the windows of the stream, batches drawn from it
    record   the same images recorded: decode, forward, write
    read     batches drawn from that recording, from the page cache
A run over E epochs takes images * E / live, or images / record + tokens * E / read, beside its training steps. On a CPU seconds
are those that the process computed, divided by torch's threads, because other processes may use the cores.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from saev.images import FolderImages
from saev.shards import ActivationStore, TokenStream
from saev.vits import MicroVit, Recording, TimmVit
from saev.vits.live import LiveStore

VITS = {
    "ViT-S/14": ("vit_small_patch14_dinov2", 224),
    "ViT-B/14": ("vit_base_patch14_dinov2", 224),
    "ViT-L/14": ("vit_large_patch14_dinov2", 224),
}


def pictures(folder: Path, n: int) -> FolderImages:
    """Photos of 480 x 360 pixels of smooth noise, as JPEG: about 30 KB each."""
    rng = np.random.default_rng(0)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        small.resize((480, 360), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=90)
    return FolderImages(root=str(folder), name="pictures")


def now() -> float:
    """Seconds: the wall clock's on a GPU, else those of an idle machine."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time() / torch.get_num_threads()


def tokens_per_s(batches: Iterator[dict[str, Any]], n_tokens: int, seconds: float) -> float:
    """Tokens per second of whole epochs of `n_tokens`, for at least one and until `seconds` have passed."""
    start, tokens = now(), 0
    while tokens < n_tokens or now() - start < seconds:
        tokens += len(next(batches)["acts"])
    return tokens / (now() - start)


def measure(vit: Any, images: FolderImages, layer: int, root: Path, device: str, batch_size: int) -> dict[str, float]:
    """Images and tokens per second of each way, and what is written."""
    recording = Recording(images, vit, layer, root, device=device, batch_size=32)
    n, settings = recording.plan.n_images, {"layer": layer, "batch_size": batch_size, "window": 1 << 16}
    made = recording.recording_pass()  # the weights are loaded once, outside what is timed
    made.computed([made.loader(0)], 1)
    recording.recording_pass = lambda: made
    live = TokenStream(LiveStore(recording), reader="live", **settings)
    computed = tokens_per_s(live.batches(0, live.n_batches), live.n_tokens, 0)
    start = now()
    store = ActivationStore(recording.run(progress=False))
    recorded = now() - start
    stored = TokenStream(store, **settings)
    read = tokens_per_s(stored.batches(), stored.n_tokens, 1)
    size = recording.plan.image_bytes
    return {
        "live_images": computed * n / live.n_tokens,
        "live_tokens": computed,
        "record_images": n / recorded,
        "record_mb": size * n / recorded / 1e6,
        "read_tokens": read,
        "image_kb": size / 1e3,
    }


def main() -> None:
    """Print a row of a markdown table per backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--vits", nargs="*", default=["ViT-S/14", "ViT-B/14"], choices=list(VITS))
    parser.add_argument("--n", type=int, default=96, help="images")
    parser.add_argument("--batch", type=int, default=4096, help="tokens per batch")
    parser.add_argument("--quick", action="store_true", help="a tiny ViT, a few seconds")
    args = parser.parse_args()
    vits = {
        name: (TimmVit(arch=arch, img_size=px, random_weights=True), 8)
        for name, (arch, px) in VITS.items()
        if name in args.vits
    }
    print(
        f"{args.n} images, device {args.device}, torch {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n"
    )
    print(
        "| backbone | live: images/s | live: tokens/s | record: images/s | written MB/s | read: tokens/s | KB stored per image |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (vit, layer) in ({"micro": (MicroVit(), 2)} if args.quick else vits).items():
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as root:
            of = measure(vit, pictures(Path(folder), args.n), layer, Path(root), args.device, args.batch)
        print(
            f"| {name} | {of['live_images']:.3g} | {of['live_tokens']:,.0f} | {of['record_images']:.3g} | {of['record_mb']:.3g} | "
            f"{of['read_tokens']:,.0f} | {of['image_kb']:.0f} |"
        )


if __name__ == "__main__":
    main()
