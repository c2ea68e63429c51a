"""map.html: the embedded codes decode to the codes, every node and photo is there, and the page draws itself in a browser."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from visuals.conftest import D_MODEL, GRID, N_IMAGES, Gone, Photos, make_store

from saev.visuals.map_page import HeatMap, MapNode, quantised, write_map_page
from saev.visuals.map_table import map_table

NODES = [("family=F<b>", "family", "F<b>", 1, 0, 6), ("family=F<b>/species=f", "species", "f", 2, 0, 3),
         ("family=F<b>/species=g", "species", "g", 2, 3, 6), ("family=G", "family", "G", 1, 6, 9)]  # fmt: skip


def codes_() -> np.ndarray:
    """9 images by 5 latents; latent 3 is silent, latent 4 fires weakly on one image."""
    codes = np.random.default_rng(0).gamma(2, size=(9, 5)) * (np.random.default_rng(1).random((9, 5)) < 0.6)
    codes[:, 3], codes[:, 4] = 0, 0
    codes[[2, 3], 4] = [1e-4, 5]
    return codes.astype(np.float32)


@pytest.fixture
def store(tmp_path):
    values = np.zeros((N_IMAGES, 12, D_MODEL), np.float32)
    return make_store(tmp_path / "data", values, np.arange(N_IMAGES), {"patches": GRID[0] * GRID[1]})


def tables() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    names = [node[0] for node in NODES]
    results = pl.DataFrame(
        {"member": ["a"] * 4, "node": names, "rank": [node[1] for node in NODES], "value": [node[2] for node in NODES],
         "depth": [node[3] for node in NODES], "n_images": [6, 3, 3, 3], "latent": [70, 71, 70, 74], "n_firing": [5, 4, 5, 2],
         "sufficiency": [0.5] * 4, "necessity": [0.25] * 4, "f1": [0.9, 0.6, 0.4, 0.2], "null_f1": [0.3, 0.3, 0.3, None],
         "p": [0.005, 0.005, 0.1, None], "coalition_f1": [0.95, None, None, None]}
    )  # fmt: skip
    coalitions = pl.DataFrame(
        {"node": names[:1], "coalition": ["70 and 71"], "f1": [0.95], "first_f1": [0.8], "null_f1": [0.4], "p": [0.02], "n_test": [3],
         "sufficiency": [0.9], "necessity": [1.0]}
    )  # fmt: skip
    return results, results.drop("coalition_f1"), coalitions


def written(path: Path, store, images=None) -> str:
    top = [(1, 2.5, True), (9, 1.25, False)]
    nodes = [MapNode(*node, top=top if i < 3 else ()) for i, node in enumerate(NODES)]
    heat = HeatMap(codes_(), np.arange(9), np.arange(70, 75), ("family", "species"), nodes)
    facts = [("Images", "some <images>")]
    return write_map_page(
        path, heat, *tables(), store=store, images=images, facts=facts, credits=["by us"], title="Map of x"
    ).read_text()


def embedded(page: str, id: str) -> str:
    match = re.search(rf'<script [^>]*id="{id}">(.*?)</script>', page, re.DOTALL)
    assert match
    return match[1]


def test_the_embedded_bytes_are_the_codes(tmp_path, store):
    page, codes = written(tmp_path / "map.html", store), codes_()
    decoded = np.frombuffer(zlib.decompress(base64.b64decode(embedded(page, "codes"))), np.uint8).reshape(codes.shape)
    data = json.loads(embedded(page, "data"))
    assert np.array_equal(decoded > 0, codes > 0)
    assert decoded / 255 * data["largest"] == pytest.approx(codes, abs=float(0.006 * codes.max()))
    assert (decoded.max(0) == [255, 255, 255, 0, 255]).all()
    assert (data["rows"], data["columns"], data["latents"]) == (9, 5, [70, 71, 72, 73, 74])
    assert data["paths"] == store.examples["path"].to_list()[:9]
    assert data["firing"] == (codes > 0).sum(0).tolist()
    assert data["nodes"][1] == ["f", 2, 0, 3]
    assert data["best"] == {"70": [0, 0.9], "71": [1, 0.6], "74": [3, 0.2]}  # the node where it does best


def test_quantised_codes_are_fractions_of_the_largest():
    assert quantised(np.array([[0, -2.0], [1e-9, 1.0]], np.float32)).tolist() == [[0, 255], [255, 128]]


def test_each_photo_is_embedded_once_and_framed_by_whether_it_is_in_the_node(tmp_path, store):
    page = written(tmp_path / "map.html", store, Photos())
    assert page.count("data:image/webp") == N_IMAGES
    assert page.count('class="view p1"') == 3 and page.count('"shown has"') == 3 and page.count('"shown hasnot"') == 3
    assert "by us" in page and "some &lt;images&gt;" in page and "F&lt;b&gt;" in page and "<b>F<b>" not in page


def test_nothing_is_loaded_and_missing_photos_are_said(tmp_path, store):
    page = written(tmp_path / "map.html", store, Gone())
    assert "photos could not be opened" in page and "data:image" not in page
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)[^\"]", page) and "http" not in page


def test_nodes_have_their_latents_and_coalitions(tmp_path, store):
    page = written(tmp_path / "map.html", store)
    assert (
        page.count('<details class="node') == 4
        and "Coalition <b>70 and 71</b>" in page
        and page.count("Coalition <b>") == 1
    )
    assert "best latent 71, F1 0.600, null 0.300" in page
    assert page.count("not above the null") == 1  # p is 0.1, whatever the 95th percentile
    assert "F1 0.950 on the other half, with 3 images of the node" in page


def test_the_terminals_table_has_a_row_per_node(capsys):
    from saev.progress import terminal

    terminal().print(map_table(tables()[0]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0][:5] == ["a", "images", "latent", "suff.", "nec."]
    assert [line[0] for line in lines[2:]] == ["F<b>", "f", "g", "G"] and lines[2][1:4] == ["6", "70", "0.50"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_draws_the_map(tmp_path, store):
    page, codes = written(tmp_path / "map.html", store), codes_()
    script = """
      const text = [], at = (column, band) => { setCross(column, band); text.push($("where").textContent); };
      at(4, 3); $("search").value = "f"; search(); text.push(hits.length); next(); text.push(view.y0, view.y1);
      const select = $("collapse"); select.value = "1"; select.dispatchEvent(new Event("change")); at(0, 1);
      text.push(bands.n, [...means().slice(0, 5)]);
      const order = $("columns"); order.value = "node"; order.dispatchEvent(new Event("change"));
      text.push(data.latents); at(data.latents.indexOf(74), 0); order.value = "similar"; order.dispatchEvent(new Event("change"));
      text.push(data.latents, [...codes]);
      zoom(1e6, 1e6); draw(); pan(100, 100); draw(); text.push(view.x1, view.y1);
      document.title = JSON.stringify(text);
    """
    measured = tmp_path / "measured.html"
    measured.write_text(page.replace("</body>", f"<script>ready.then(() => {{ {script} }});</script></body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", f"file://{measured}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    title = re.search("<title>(.*?)</title>", dom)
    assert title and title[1].startswith("["), dom[-2000:]
    cell, n_hits, y0, y1, collapsed, n, means, by_node, moved, again, restored, x1, last = json.loads(
        title[1].replace("&lt;", "<").replace("&gt;", ">")
    )
    path = store.examples["path"][3]
    assert cell.startswith(f"F<b> › g · {path}latent 74: code 5.0") and "best latent of G, F1 0.200" in cell
    assert n_hits == 3 and y0 == 0 and y1 < 9  # F, f, and f.jpg; the first is zoomed to
    assert collapsed.startswith("G · 3 imageslatent 70: mean code") and n == 2
    mean = np.stack([quantised(codes)[:6].mean(0), quantised(codes)[6:].mean(0)])
    assert means == np.round(255 * mean[0] / np.maximum(mean.max(0), 1e-9)).tolist()
    node_means = np.stack(
        [quantised(codes)[:3].mean(0), quantised(codes)[3:6].mean(0)]
    )  # the last family has no species
    assert [node_means[:, latent - 70].argmax() for latent in by_node] == sorted(node_means.argmax(0).tolist())
    assert (
        "latent 74: mean code" in moved
        and again == list(range(70, 75))
        and restored == quantised(codes).ravel().tolist()
    )
    assert (x1, last) == (5, 2)
