"""The measures of `saev bench` for all latents of a dictionary: `python benchmarks/bench_bench.py [--quick] [--check]`.

A TopK dictionary (k 32, 16,384 latents) on 1,000 images x 256 tokens, d_model 384 (`--d-model`), of 20 classes in 4 groups, written
as a recording first: (1) the pass that encodes, decodes and pools, with Moran's I of every map; (2) each measure with its null and
200 resamples of the images. Where `visaebench` is installed (`uv sync --group peers`) its functions on the first 100 images, with its
sample sizes, beside ours on the same: seconds, the latents that its value is of, and the ratio of seconds per latent. Every
function of it encodes anew; ours share one pass, which each ratio adds in full. `--quick` has a tenth of images and latents.
`--check` exits with 1 where a goal is missed.
"""

import argparse
import importlib.util
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from goals import print_goals

from saev.dictionary_bench.absorption import absorption
from saev.dictionary_bench.activity import activity
from saev.dictionary_bench.coalitions import coalition_matching
from saev.dictionary_bench.encoding import codes_by_image
from saev.dictionary_bench.image_codes import ImageCodes
from saev.dictionary_bench.localisation import localisation
from saev.dictionary_bench.measured import Measured
from saev.dictionary_bench.monosemanticity import TOP_IMAGES, monosemanticity
from saev.dictionary_bench.preservation import classifier, preservation
from saev.dictionary_bench.reconstruction import fvu, nmse
from saev.dictionary_bench.sparse_probe import sparse_probe
from saev.metrics.resampling import draws
from saev.nn import SparseAutoencoder, TopK
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.selected_tokens import Selection
from saev.trait_evaluation.table import TraitTable

SIDE, CLASSES, SIBLINGS, PEER_IMAGES, DRAWS = 16, 20, 5, 100, 200


def dictionary(n_latents: int, d_model: int) -> SparseAutoencoder:
    """Random atoms, which the encoder reads."""
    torch.manual_seed(0)
    sae = SparseAutoencoder(d_model, n_latents, TopK(32))
    with torch.no_grad():
        sae.w_dec.copy_(torch.nn.functional.normalize(torch.randn(n_latents, d_model), dim=1))
        sae.encoder.copy_(sae.w_dec)
    return sae.requires_grad_(False).eval()


def activations(image: int, label: int, atoms: np.ndarray) -> np.ndarray:
    """[tokens, d_model] of an image: 8 atoms in each quarter, two of them of its class, 8 others per token, and noise."""
    rng, d_model = np.random.default_rng(image), atoms.shape[1]
    quarter = (np.arange(SIDE)[:, None] // (SIDE // 2) * 2 + np.arange(SIDE) // (SIDE // 2)).ravel()
    regional = np.column_stack([rng.integers(0, 2, (4, 2)) + 2 * label, rng.integers(0, len(atoms), (4, 6))])[quarter]
    atom = np.column_stack([regional, rng.integers(0, len(atoms), (SIDE**2, 8))])
    weights = rng.exponential(size=atom.shape) * np.repeat([2, 1], 8)
    acts = np.einsum("ta,tad->td", weights, atoms[atom]) + 0.1 * rng.normal(size=(SIDE**2, d_model))
    return acts.astype(np.float16)


def recording(root: Path, n: int, labels: np.ndarray, atoms: np.ndarray) -> ActivationStore:
    """A recording of n images."""
    tokens, d_model = SIDE**2, atoms.shape[1]
    writer = RecordingWriter(root, {"images": {}, "vit": {}}, n, 250, [0], {"patches": tokens}, d_model, "float16")
    for i in writer.pending():
        with writer.shard(i) as shard:
            for image in writer.examples_of(i):
                row = {"key": f"{image}", "path": f"{image}", "grid_h": SIDE, "grid_w": SIDE}
                shard.add(image, {0: activations(image, int(labels[image]), atoms)}, row)
    writer.finish()
    return ActivationStore(root)


def measures(
    codes: ImageCodes, labels: np.ndarray, embeddings: np.ndarray, n_draws: int = DRAWS, min_images: int = 50
) -> dict[str, Callable[[], Measured]]:
    """Every measure that reads one recording's codes."""
    drawn = draws(len(codes.images), n_draws)
    groups = {f"group {g}": list(range(g * SIBLINGS, (g + 1) * SIBLINGS)) for g in range(CLASSES // SIBLINGS)}
    of_classes = (labels[:, None] == np.arange(CLASSES)).astype(np.int8)
    concepts = TraitTable(tuple(map(str, range(CLASSES))), of_classes)
    return {
        "Moran's I": lambda: localisation(codes, drawn, min_images),
        "L0, dead, dense": lambda: activity(codes, drawn)["l0"],
        "NMSE": lambda: nmse(codes, drawn),
        "FVU": lambda: fvu(codes, drawn),
        "preservation": lambda: preservation(codes, classifier(codes.images, labels), drawn),
        "k-sparse probes": lambda: sparse_probe(codes, labels, drawn),
        "the same, ranked on all images": lambda: sparse_probe(codes, labels, drawn, ranked_on="all"),
        "monosemanticity": lambda: monosemanticity(codes, embeddings, drawn),
        "the same, of 16 images": lambda: monosemanticity(codes, embeddings, drawn, TOP_IMAGES),
        "absorption": lambda: absorption(codes, labels, groups, drawn),
        "the same, judged on all images": lambda: absorption(codes, labels, groups, drawn, judged_on="train"),
        f"coalitions, {CLASSES} concepts, 20 permutations": lambda: coalition_matching(codes, concepts, drawn)[0],
    }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result)."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def beside_visaebench(
    member: SparseAutoencoder, selection: Selection, labels: np.ndarray, embeddings: np.ndarray
) -> list[tuple[str, str, str, bool]]:
    """A row per function of the wheel."""
    from visaebench.metrics.concept_detection import MonosemanticityScore, SparseProbing
    from visaebench.metrics.disentanglement import FeatureAbsorption
    from visaebench.metrics.reconstruction import FVU, DownstreamPreservation
    from visaebench.metrics.spatial_coherence import FeatureLocalization

    n = len(selection.images)
    acts = torch.from_numpy(np.stack([selection.store.read(0, i) for i in selection.images.tolist()])).float()
    encoder = type(
        "Encoder",
        (),
        {"extract_activations": lambda _, images, layer: torch.from_numpy(embeddings)[list(images), None]},
    )()
    groups = {str(g): {"class_indices": [*range(g * SIBLINGS, (g + 1) * SIBLINGS)]} for g in range(CLASSES // SIBLINGS)}
    known = {"device": "cpu", "labels": labels}
    grid, embed = (SIDE, SIDE), {"device": "cpu", "images": range(n), "evaluator_backbone": encoder}
    localisation_of = FeatureLocalization(grid, min_images_per_feature=2, image_batch_size=16)
    theirs = {
        "Moran's I": lambda: localisation_of.compute(member, acts, device="cpu"),
        "FVU": lambda: FVU().compute(member, acts.flatten(0, 1), device="cpu"),
        "preservation": lambda: DownstreamPreservation().compute(member, acts, **known),
        "the same, ranked on all images": lambda: SparseProbing().compute(member, acts, **known),
        "the same, of 16 images": lambda: MonosemanticityScore().compute(member, acts, **embed),
        "the same, judged on all images": lambda: FeatureAbsorption().compute(
            member, acts, sibling_groups=groups, **known
        ),
    }
    pass_s, codes = timed(lambda: codes_by_image({"a": member}, selection)["a"])
    ours = measures(codes, labels, embeddings, min_images=2)
    rows, totals, per_latent = (
        [("our pass", f"{pass_s:.1f} s", "", True)],
        [0.0, pass_s],
        [0.0, pass_s / member.n_latents],
    )
    for name, call in theirs.items():
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds, result = timed(call)
        our_s, measured = timed(ours[name])
        totals = [totals[0] + seconds, totals[1] + our_s]
        text = f"{seconds:.1f} s beside {our_s:.2f} s; with the pass {seconds / (pass_s + our_s):.1f} x"
        if sampled := result.metadata.get("num_features_scored"):
            per_latent = [per_latent[0] + seconds / sampled, per_latent[1] + our_s / measured.n]
            ratio = seconds / (pass_s + our_s) * measured.n / sampled
            text += f"; {sampled} of {measured.n} latents, {ratio:.0f} x per latent"
        rows.append((name, text, "", True))
    text = f"{totals[0]:.0f} s beside {totals[1]:.1f} s: {totals[0] / totals[1]:.1f} x"
    ratio = per_latent[0] / per_latent[1]
    rows.append(("both measures of sampled latents, with one pass, per latent", f"{ratio:.0f} x", "20 x", ratio > 20))
    return [*rows, ("all six, with one pass", text, "", True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=384)
    parser.add_argument("--quick", action="store_true", help="a tenth of images and latents")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    n, n_latents = (100, 1638) if options.quick else (1000, 16384)
    labels = np.arange(n) % CLASSES
    embeddings = np.random.default_rng(0).normal(size=(n, 768)).astype(np.float32)
    embeddings += 2 * np.random.default_rng(1).normal(size=(CLASSES, 768)).astype(np.float32)[labels]
    member, rows, total = dictionary(n_latents, options.d_model), [], 0.0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = recording(Path(folder) / "data", n, labels, member.atoms.numpy())
        selection = Selection(store, 0, np.arange(n))
        seconds, codes = timed(lambda: codes_by_image({"a": member}, selection, progress=True)["a"])
        total += seconds
        l0, valid = codes.firings.sum() / codes.images.tokens.sum(), np.isfinite(codes.morans_i).mean()
        text = f"pass over {n} x {SIDE**2} tokens, {n_latents} latents, L0 {l0:.0f}"
        rows.append((f"{text}, {valid:.0%} of {len(codes.max):,} maps valid", f"{seconds:.1f} s", "", True))
        for name, call in measures(codes, labels, embeddings, min_images=5 if options.quick else 50).items():
            seconds, result = timed(call)
            total += seconds
            spread = result.draws.std() if len(result.draws) else float("nan")
            text = f"{name} {result.value:.3f} (null {result.null:.3f}, sd {spread:.3f}, n {result.n})"
            rows.append((text, f"{seconds:.2f} s", "", True))
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows += [("all", f"{total:.1f} s", "300 s", total < 300), ("memory", f"{gib:.2f} GiB", "", True)]
        if importlib.util.find_spec("visaebench"):
            first = Selection(store, 0, np.arange(PEER_IMAGES))
            rows += beside_visaebench(member, first, labels[:PEER_IMAGES], embeddings[:PEER_IMAGES])
    print_goals(rows, options.check)


if __name__ == "__main__":
    main()
