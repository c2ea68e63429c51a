"""The explorer's server side: `python benchmarks/bench_explore.py [--quick] [--check]`.

Synthetic codes (32,768 latents, 32 of them on each of 196 tokens, frequencies log-uniform over a factor of 1000; 10,000 images) as `saev
encode` writes them, with a dictionary of d_model 768. Seconds until the dictionary is open and warm; then the median and the longest of
what each filter and click computes, each on 20 latents or images, the most frequent latent among them; and the memory of the process.
`--quick`: 4,096 latents, 1,000 images. `--check` exits with 1 where a goal is missed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from goals import print_goals

import saev
from saev.codes import CodesManifest, CodeStore, CodeWriter, EncodeSettings
from saev.explore import cards, plots
from saev.explore.latents import Filters, filtered
from saev.explore.opened import Opened
from saev.explore.opening import named
from saev.explore.results import TABLES
from saev.nn import SparseAutoencoder, TopK
from saev.ops.sparse import SparseCodes
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.selected_tokens import Selection
from saev.visuals.pictures import Album

K, GRID, PER_SHARD, D_MODEL = 32, 14, 1000, 768
TOKENS = GRID * GRID


def write_codes(root: Path, n_images: int, n_latents: int) -> Path:
    """The codes and an (empty) recording of as many tokens; the codes' folder."""
    rng = np.random.default_rng(0)
    block = n_latents // K  # a token has one latent of each block: no latent twice
    weight = np.exp(rng.uniform(np.log(1e-3), 0, (K, block)))
    cumulative = np.cumsum(weight / weight.sum(1, keepdims=True), 1).astype(np.float32)
    meaning = {"images": {"name": "synthetic"}, "vit": {"name": "none"}}
    writer = RecordingWriter(root / "data", meaning, n_images, PER_SHARD, [0], {"patches": TOKENS}, 1)
    for number in writer.pending():
        with writer.shard(number) as shard:
            for example in writer.examples_of(number):
                row = {"key": str(example), "path": f"{example}.jpg", "grid_h": GRID, "grid_w": GRID}
                shard.add(example, {0: np.zeros((TOKENS, 1), np.float16)}, row)
    writer.finish()
    selection = Selection(ActivationStore(root / "data"), 0, np.arange(n_images), "patches")
    about = {"path": "synthetic", "sha256": "0"}
    codes = CodeWriter(root / "codes", CodesManifest.of(about, n_latents, selection, EncodeSettings()), selection)
    for number in codes.pending():
        with codes.shard(number) as out:
            n = int(selection.rows[number])
            draws = rng.random((n, K), np.float32)
            latents = [np.searchsorted(cumulative[i], draws[:, i]).clip(max=block - 1) + i * block for i in range(K)]
            values = torch.from_numpy(rng.gamma(2, size=n * K).astype(np.float32))
            offsets = torch.arange(n + 1) * K
            images, tokens = np.divmod(np.arange(n), TOKENS)
            out.add(
                SparseCodes(offsets, torch.from_numpy(np.stack(latents, 1).ravel()), values),
                images + number * PER_SHARD,
                tokens,
            )
    codes.finish()
    return codes.root


def times(call: Callable[[int], object], numbers: Sequence[int]) -> tuple[float, float]:
    """Median and longest milliseconds of a call with each of the numbers."""
    taken = []
    for number in numbers:
        start = time.perf_counter()
        call(number)
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken)), max(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,096 latents, 1,000 images")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    n_latents, n_images = (4096, 1000) if options.quick else (32768, 10000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        codes = write_codes(root, n_images, n_latents)
        dictionary = saev.save_dictionary(SparseAutoencoder(D_MODEL, n_latents, TopK(K)), root / "saes" / "synthetic")
        peak()  # the peak begins anew
        before, start = peak(), time.perf_counter()
        album = Album(None, ActivationStore(root / "data"))
        opened = Opened(named(str(dictionary)), CodeStore(codes), album, album, {name: [] for name in TABLES}).warm()
        opening, rng = time.perf_counter() - start, np.random.default_rng(1)
        latents = [int(opened.latents["firings"].arg_max() or 0), *rng.integers(n_latents, size=19).tolist()]
        images = rng.integers(n_images, size=20).tolist()
        filters = [Filters((-4.0 + i / 10, -2.0), (-1.0, 1.0), text=str(i)) for i in range(20)]
        steps = {
            "filter the latents": lambda i: filtered(opened.latents, filters[i]),
            "draw the cells of latents": lambda i: plots.density_chart(opened.latents).to_dict(),
            "six latents with their images": lambda i: cards.gallery_card(opened, opened.latents[i:]),
        }
        measured = {what: times(call, range(20)) for what, call in steps.items()}
        measured["click a latent"] = times(lambda j: cards.latent_card(opened, j), latents)
        measured["click an image"] = times(lambda i: cards.image_card(opened, i), images)
        measured["compare two latents"] = times(lambda j: cards.pair_card(opened, opened, j, latents[0]), latents)
        rows = [
            (what, f"{median:.0f}, {longest:.0f} ms", "100 ms", longest < 100)
            for what, (median, longest) in measured.items()
        ]
        gib = peak() - before
        rows += [
            ("open the dictionary", f"{opening:.1f} s", "5 s", opening < 5),
            ("memory that it takes", f"{gib:.2f} GiB", "2 GiB", gib < 2),
        ]
        title = f"{n_latents} latents, {n_images} images, {opened.pooled.nnz / 1e6:.1f} M pooled codes"
        print_goals(rows, options.check, title, "median, longest")


def peak() -> float:
    """The most memory that this process had since the last call, GiB; pages of mapped files count."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) / 2**20


if __name__ == "__main__":
    main()
