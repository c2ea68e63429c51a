"""Does the stored dtype matter to dictionaries? `python benchmarks/bench_storage.py [--quick] [--check]`.

The same activations are stored as float32, float16 and int8; the same TopK autoencoders (d_sae 2048, k 16, 400 steps of 1024
tokens, one per seed) are trained on each and judged on the float32 activations of held-out images. By default the demo's
photos and weights, from the package index; `--images FOLDER --weights FILE` take others for vit_small_patch14_dinov2.

    bytes     of a stored token        stored   error of the stored values, relative to their variance
    NMSE      of the autoencoder, mean over seeds (standard deviation)
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from saev.demo import DemoBirds, ImgFocus
from saev.images import FolderImages
from saev.nn import AuxK, Member, Plain, TopK
from saev.nn.normalise import Normaliser
from saev.nn.schedules import learning_rate_factor
from saev.shards import ActivationStore, RecordingWriter, TokenStream
from saev.shards.split import split_images
from saev.vits import Recording, TimmVit

LAYER, D_SAE, K, BATCH, CALIBRATION_IMAGES = 8, 2048, 16, 1024, 64
GOAL = 0.01  # how much higher than float32's an NMSE may be, relative to it


def record(args: argparse.Namespace, root: Path) -> ActivationStore:
    """The activations in float32, by the backbone."""
    images = FolderImages(root=args.images, name="images") if args.images else DemoBirds()
    vit = (
        TimmVit(name="vit", arch="vit_small_patch14_dinov2", checkpoint=args.weights, img_size=112)
        if args.weights
        else ImgFocus()
    )
    return ActivationStore(Recording(images=images, vit=vit, layers=[LAYER], root=root, dtype="float32").run())


def store_again(store: ActivationStore, root: Path, dtype: str) -> ActivationStore:
    """The same activations in another dtype."""
    m = store.manifest
    writer = RecordingWriter(root, m.meaning, m.n_examples, m.examples_per_shard, m.layers, m.roles, m.d_model, dtype)
    if writer.needs_calibration:
        first = np.concatenate([store.read(LAYER, i) for i in range(CALIBRATION_IMAGES)])
        writer.calibrate({LAYER: first})
    for shard in writer.pending():
        with writer.shard(shard) as out:
            for i in writer.examples_of(shard):
                row = {"path": store.examples["path"][i]}
                values = store.read(LAYER, i)
                out.add(i, {LAYER: values}, row) if len(values) else out.skip(i, "not read", row)
    writer.finish()
    return ActivationStore(root)


def train(store: ActivationStore, examples: np.ndarray, seeds: int, steps: int) -> list[TrainingMember]:
    """One autoencoder per seed, on the same batches; as callbacks and trainer would, without them."""
    stream = TokenStream(store, LAYER, BATCH, examples=examples)
    normaliser = Normaliser.fit(store.moments(LAYER, "patches"))
    sample = normaliser(
        torch.from_numpy(np.concatenate([store.read(LAYER, i, "patches") for i in examples[:128]])).float()
    )
    members = [
        Member(TopK(K), f"{seed}", Plain(), AuxK(), lr=1e-3, seed=seed, d_sae=D_SAE).build(normaliser, sample)
        for seed in range(seeds)
    ]
    optimiser = torch.optim.Adam([p for member in members for p in member.sae.parameters()], fused=True)
    for batch in stream.batches(0, steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * learning_rate_factor(batch["step"], steps, 20, 0.2)
        z = normaliser(torch.as_tensor(batch["acts"]).float())
        l0 = []
        for member in members:
            losses = member(z)
            losses.loss.backward()
            member.condition_gradients(1.0)
            l0.append(losses.l0)
        optimiser.step()
        optimiser.zero_grad()
        for member, active in zip(members, l0, strict=True):
            member.finish_step(active)
    return members


@torch.inference_mode()
def share_of(error: torch.Tensor, x: torch.Tensor) -> float:
    """The squared error relative to the squared distance of x from its mean."""
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and 60 steps")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    parser.add_argument("--images", help="folder of photos instead of the demo's")
    parser.add_argument("--weights", help="file of vit_small_patch14_dinov2's weights instead of the demo's")
    args = parser.parse_args()
    seeds, steps = (1, 60) if args.quick else (3, 400)
    table = Table("dtype", "bytes", "stored", "NMSE", "beside float32", "goal", title=f"{steps} steps, {seeds} seeds")
    missed, first = 0, float("nan")
    with tempfile.TemporaryDirectory() as scratch:
        exact = record(args, Path(scratch))
        chosen, held_out = split_images(exact.tokens_per_image(LAYER), 0.1)
        x = torch.from_numpy(np.concatenate([exact.read(LAYER, i, "patches") for i in held_out]))
        for dtype in ("float32", "float16", "int8"):
            store = exact if dtype == "float32" else store_again(exact, Path(scratch) / dtype, dtype)
            stored = torch.from_numpy(np.concatenate([store.read(LAYER, i, "patches") for i in held_out])).float()
            members = train(store, chosen, seeds, steps)
            with torch.inference_mode():
                nmse = [share_of(x - member.sae(x), x) for member in members]
            first = statistics.mean(nmse) if dtype == "float32" else first
            more = statistics.mean(nmse) / first - 1
            missed += more > GOAL
            spread = f" ({statistics.stdev(nmse):.4f})" if seeds > 1 else ""
            table.add_row(
                dtype, str(store.codec(LAYER).row_bytes), f"{share_of(x - stored, x):.1e}",
                f"{statistics.mean(nmse):.4f}{spread}", f"{100 * more:+.2f} %", f"< +{100 * GOAL:.0f} %",
            )  # fmt: skip
    Console().print(table)
    return int(args.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
