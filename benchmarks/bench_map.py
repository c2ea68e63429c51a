"""`saev map` on synthetic codes: `python benchmarks/bench_map.py [--quick] [--check]`.

2,000 images of 200 species, 40 genera, 10 families by 4,000 latents, of which a tenth follow a node of the tree and the others a random
factor (a quarter of the codes are not 0): (1) counts, 200 permutations, coalitions and 40 searches, order of rows and columns; (2) of
that the order of the latents, and scipy's optimal order of 2,000; (3) the page's size and the time to write it; (4) in headless
Chromium, where there is one, the time until the map is drawn and the time of 60 frames while it zooms and moves. `--quick` has a
quarter of images and latents. `--check` exits with 1 where a goal is missed.
"""

import argparse
import http.server
import queue
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from goals import print_goals
from scipy.sparse import csc_matrix

from saev.shards import ActivationStore, RecordingWriter
from saev.shards.selected_tokens import Selection
from saev.taxon_map import order
from saev.taxon_map.latent_map import map_of
from saev.taxon_map.page import write_page
from saev.taxon_map.settings import MapSettings
from saev.taxon_map.tables import tables_of
from saev.taxon_map.tree import tree_of

FRAMES = """
ready.then(() => {
  const times = [], now = () => performance.now(), drawn = now();
  for (let i = 0; i < 60; i++) {
    if (i < 25) zoom(1.15, 1.15, .3, .7); else if (i < 45) pan(C / 200, R / 200); else zoom(1 / 1.3, 1 / 1.2);
    const start = now(); draw(); context.getImageData(0, 0, 1, 1); times.push(now() - start);
  }
  times.sort((a, b) => a - b);
  fetch("http://127.0.0.1:PORT/", {method: "POST", mode: "no-cors", body: [drawn, times[59], times[57], times[30]].join(" ")});
});
"""


def recording(root: Path, n: int) -> ActivationStore:
    """A recording whose images have paths alone."""
    writer = RecordingWriter(root, {"images": {}, "vit": {}}, n, n, [0], {"cls": 1}, 1, "float32")
    with writer.shard(0) as shard:
        for i in range(n):
            shard.add(i, {0: np.zeros((1, 1), np.float32)}, {"key": f"{i}", "path": f"family/species/{i:06}.jpg"})
    writer.finish()
    return ActivationStore(root)


def synthetic(n: int, latents: int, rng: np.random.Generator) -> tuple[csc_matrix, dict[str, list[str | None]]]:
    """(pooled codes, taxa)."""
    species = rng.integers(0, 200, n)
    taxa = {"family": species // 20, "genus": species // 5, "species": species}
    factors = rng.random((n, 64)) < 0.25
    fires = factors[:, rng.integers(0, 64, latents)] & (rng.random((n, latents)) < 0.5)
    fires |= rng.random((n, latents)) < 0.12
    for j in range(0, latents, 10):
        value = list(taxa.values())[j // 10 % 3]
        fires[:, j] |= (value == rng.choice(value)) & (rng.random(n) < 0.8)
    codes = fires * rng.gamma(2, size=(n, latents)).astype(np.float32)
    return csc_matrix(codes), {rank: [f"{rank}{one:03}" for one in values.tolist()] for rank, values in taxa.items()}


def browser() -> str | None:
    """The path of Chromium or Chrome."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def frames(page: Path, chromium: str) -> tuple[float, ...]:
    """(milliseconds until the map is drawn, longest frame, 95th percentile and median), which the page sends to a port of this process."""
    answers: queue.Queue[str] = queue.Queue()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    measured = page.with_name("measured.html")
    script = FRAMES.replace("PORT", str(server.server_port))
    measured.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1000"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--remote-debugging-port=0", f"file://{measured}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return tuple(map(float, answers.get(timeout=120).split()))
    finally:
        process.terminate()
        process.wait()
        server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of images and latents")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args()
    n, latents = (500, 1000) if options.quick else (2000, 4000)
    pooled, taxa = synthetic(n, latents, np.random.default_rng(0))
    settings = MapSettings(rows=tuple(taxa))
    rows: list[tuple[str, str, str, bool]] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        selection = Selection(recording(root / "data", n), 0, np.arange(n), "cls")
        tree = tree_of(taxa).separating()
        start = time.perf_counter()
        one = map_of("synthetic", selection, pooled, tree, np.arange(n), settings)
        tables = tables_of(one)
        whole = time.perf_counter() - start
        rows.append((f"{n} images, {latents} latents, {len(tree.nodes)} nodes", f"{whole:.1f} s", "60 s", whole < 60))

        shown = one.shown
        start = time.perf_counter()
        order.seriate(shown)
        seconds = time.perf_counter() - start
        rows.append((f"order of {shown.shape[1]} latents", f"{seconds:.1f} s", "10 s", seconds < 10))
        if not options.quick:
            start = time.perf_counter()
            order.seriate(shown[:, : order.MOST_OPTIMAL])
            rows.append((f"optimal order of {order.MOST_OPTIMAL}", f"{time.perf_counter() - start:.1f} s", "", True))

        start = time.perf_counter()
        page = write_page(root / "map.html", one, tables, None, {})
        seconds, size = time.perf_counter() - start, page.stat().st_size / 1e6
        rows.append(("page, without photos", f"{size:.1f} MB", "15 MB", size < 15))
        rows.append(("writing it", f"{seconds:.1f} s", "10 s", seconds < 10))
        if chromium := browser():
            drawn, longest, usual, median = frames(page, chromium)
            rows.append(("open until drawn", f"{drawn:.0f} ms", "2000 ms", drawn < 2000))
            rows.append(
                (
                    f"95 of 100 frames (median {median:.0f}, longest {longest:.0f} ms)",
                    f"{usual:.0f} ms",
                    "50 ms",
                    usual < 50,
                )
            )
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows.append(("memory", f"{gib:.2f} GiB", "4 GiB", gib < 4))
    print_goals(rows, options.check)


if __name__ == "__main__":
    main()
