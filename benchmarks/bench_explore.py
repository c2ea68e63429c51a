"""The explorer's server side: `python benchmarks/bench_explore.py [--quick] [--check]`.

Synthetic codes (32,768 latents, 32 of them on each of 196 tokens, frequencies log-uniform over a factor of 1000; 10,000 images) as `saev
encode` writes them, with a dictionary of d_model 768. Seconds until the dictionary is open and warm; then the median and the longest of
what each filter and click computes, each on 20 latents or images, the most frequent latent among them; and the memory of the process.
With Chromium also what a user waits for: from the start of the server to the first view, and from a click or key to what it shows.
`--quick`: 4,096 latents, 1,000 images. `--check` exits with 1 where a goal is missed.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from goals import print_goals

import saev
from saev.checkpoint import read_config
from saev.codes import CodesManifest, CodeStore, CodeWriter, EncodeSettings
from saev.codes.manifest import identity_of
from saev.explore import cards, plots, server
from saev.explore.latents import Filters, filtered
from saev.explore.opened import Opened
from saev.explore.opening import Session, named
from saev.explore.results import TABLES
from saev.nn import SparseAutoencoder, TopK
from saev.ops.sparse import SparseCodes
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.selected_tokens import Selection
from saev.visuals.pictures import Album

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from explore.browser import browsing

K, GRID, PER_SHARD, D_MODEL = 32, 14, 1000, 768
TOKENS = GRID * GRID


def write_codes(root: Path, n_images: int, dictionary: Path) -> Path:
    """The codes of a dictionary and a recording, each image of which has the same activations; the codes' folder."""
    n_latents = read_config(dictionary)["n_latents"]
    rng = np.random.default_rng(0)
    block = n_latents // K  # a token has one latent of each block: no latent twice
    weight = np.exp(rng.uniform(np.log(1e-3), 0, (K, block)))
    cumulative = np.cumsum(weight / weight.sum(1, keepdims=True), 1).astype(np.float32)
    meaning = {"images": {"name": "synthetic"}, "vit": {"name": "none"}}
    writer = RecordingWriter(
        root / "activations" / "data", meaning, n_images, PER_SHARD, [0], {"patches": TOKENS}, D_MODEL
    )
    acts = np.random.default_rng(1).normal(size=(TOKENS, D_MODEL)).astype(np.float16)
    for number in writer.pending():
        with writer.shard(number) as shard:
            for example in writer.examples_of(number):
                row = {"key": str(example), "path": f"{example}.jpg", "grid_h": GRID, "grid_w": GRID}
                shard.add(example, {0: acts}, row)
    writer.finish()
    selection = Selection(ActivationStore(root / "activations" / "data"), 0, np.arange(n_images), "patches")
    about = identity_of(dictionary)
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
        about = {"dataset": "data", "layer": 0, "token_roles": "patches"}
        sae = SparseAutoencoder(D_MODEL, n_latents, TopK(K))
        dictionary = saev.save_dictionary(sae, root / "run" / "synthetic", provenance=about)
        codes = write_codes(root, n_images, dictionary)
        peak()  # the peak begins anew
        before, start = peak(), time.perf_counter()
        album = Album(None, ActivationStore(root / "activations" / "data"))
        opened = Opened(
            named(str(dictionary)), CodeStore(codes), album, album, {name: [] for name in TABLES}, album.store
        ).warm()
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
        if shutil.which("chromium"):
            rows += in_browser(Session((root / "run",), root / "codes", root / "activations", device="cpu"), root)
        title = f"{n_latents} latents, {n_images} images, {opened.pooled.nnz / 1e6:.1f} M pooled codes"
        print_goals(rows, options.check, title, "median, longest")


def in_browser(session: Session, folder: Path) -> list[tuple[str, str, str, bool]]:
    """Rows of goals: the first view, a filter, a click on a latent and on a patch, in Chromium; 20 milliseconds of each are the asking."""
    start = time.perf_counter()
    rows = []

    def row(what: str, goal: float) -> None:
        taken = time.perf_counter() - start
        rows.append((f"browser: {what}", f"{1000 * taken:.0f} ms", f"{1000 * goal:.0f} ms", taken < goal))

    with (
        server.serving(session) as running,
        timed() as answered,
        browsing(running.address, folder / "profile") as browser,
    ):
        browser.until("shown(one => one.textContent === 'Pareto-optimal only').length", step=0.02)
        row("first view, from the start of the server", 5)
        start = answered
        row("first view, from the printed address", 5)
        time.sleep(2)
        browser.click("one.textContent === 'Latents' && !one.children.length")
        browser.until("shown(one => one.matches('.saev h4')).length > 1")
        time.sleep(1)
        box = "one.tagName === 'INPUT' && one.placeholder.startsWith('number')"
        browser.click(box)
        start = time.perf_counter()
        browser.type("1234")
        browser.until("shown(one => !one.children.length && one.textContent.includes('1 of ')).length", step=0.02)
        row("filter of latents, 300 ms of which it waits for more keys", 0.6)
        start = time.perf_counter()
        browser.js("shown(one => one.matches('.saev h4 button'))[0].click()")
        browser.until("shown(one => one.matches('.saev h4') && one.textContent === 'Latent 1234').length", step=0.02)
        row("click a latent", 0.3)
        time.sleep(1)
        start = time.perf_counter()
        browser.js("shown(one => one.matches('.saev .photo'))[0].click()")
        browser.until("shown(one => one.matches('.saev .large')).length", step=0.02)
        row("click an image", 0.3)
        time.sleep(1)
        browser.js("shown(one => one.matches('.saev .large'))[0].focus()")
        start = time.perf_counter()
        browser.press("ArrowRight")
        browser.until(
            "shown(one => one.matches('.saev h4') && one.textContent.startsWith('Patch 1, 1')).length", step=0.02
        )
        row("choose a patch", 0.3)
    return rows


@contextlib.contextmanager
def timed() -> Iterator[float]:
    """The time at which the block begins."""
    yield time.perf_counter()


def peak() -> float:
    """The most memory that this process had since the last call, GiB; pages of mapped files count."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) / 2**20


if __name__ == "__main__":
    main()
