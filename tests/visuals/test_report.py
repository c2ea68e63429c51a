"""The page holds every SAE, stands alone, and survives what is missing or failed."""

import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from saev.nn import ReLU, SparseAutoencoder
from saev.visuals.report import write_report
from saev.visuals.settings import Choice
from saev.visuals.tables import evaluation_table, results_table
from tests.visuals.conftest import make_store

ROW = {
    "sae": "relu", "objective": "plain", "sparsity": 1e-3, "nmse": 0.3456, "l0": 15.98, "dead": 0.1234,
    "dense_above_0.1": 0.01, "coherence": 0.9, "tokens_per_s": 12345.6, "n_tokens": 120, "train_tokens": 640, "failed": False,
}  # fmt: skip
BROKEN = {**ROW, "member": "broken", "nmse": math.nan, "l0": math.nan, "coherence": math.nan, "failed": True}

EVERY = Choice(commonest=0.0, images=1, weakest=0.0)


class Page(HTMLParser):
    """Collects tags, and every address that a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "input", "br", "link", "hr", "col"):
            self.open.append(tag)
        self.addresses += [value for key, value in attributes if key in ("src", "href") and value]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write(tmp_path, store, members, rows, **more):
    history = tmp_path / "metrics.jsonl"
    lines = [
        {"step": s, "tokens": 100 * s, "member": m, "split": "train", "z_mse": 1 / s, "l0": 10.0}
        for m in members
        for s in (1, 2)
    ]
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = write_report(
        tmp_path / "report.html",
        rows,
        members,
        store=store,
        layer=2,
        history=history,
        config="k: 3",
        choice=EVERY,
        **more,
    )
    text = path.read_text()
    return Page(text), text


def test_the_page_holds_every_sae_and_stands_alone(tmp_path, store, sae, photos):
    rows = [{**ROW, "member": name} for name in ("one", "two")]
    page, text = write(tmp_path, store, {"one": sae, "two": sae}, rows, images=photos, credits=["by <them>"])
    assert not page.open
    for expected in (
        "one",
        "two",
        "trained on 640 tokens each",
        "12,346 tokens/s",
        "0.346",
        "16.0",
        "12.3",
        "by <them>",
        "k: 3",
    ):
        assert expected in page.text, expected
    assert all(address.startswith(("data:", "#")) or "://" not in address for address in page.addresses)
    assert not re.search(r"url\(\s*['\"]?https?:", text)
    assert text.count("data:image/webp") == len(set(re.findall(r"data:image/webp[^\"')]+", text))) > 0


def test_photos_of_their_own_shape_keep_it(tmp_path, values, order, sae, photos, monkeypatch):
    flex = {"resize": "flex", "n_patches": 12, "patch": 8, "fit": "stretch"}
    store = make_store(tmp_path / "flex", values, order, {"cls": 1, "patches": 12}, **flex)
    monkeypatch.setattr(photos, "open", lambda i: Image.new("RGB", (80, 20) if i % 2 else (20, 80)))
    page, text = write(tmp_path, store, {"one": sae}, [{**ROW, "member": "one"}], images=photos)
    shapes = dict(re.findall(r"\.p(\d+) \{[^}]+--ratio: ([\d. /]+; --width: \d+%);", text))
    assert set(shapes.values()) == {"27 / 80; --width: 33%", "80 / 27; --width: 100%"}, (
        "grids of 2 x 6 and 6 x 2 patches"
    )
    assert "at most 12 patches of 8 px, in each photo's own shape" in page.text


@pytest.mark.slow
def test_missing_photos_are_reported(tmp_path, store, sae, gone):
    for source in (gone, None):
        page, text = write(tmp_path, store, {"one": sae}, [{**ROW, "member": "one"}], images=source)
        assert "data:image/webp" not in text and "0.346" in page.text and "Latent" in page.text


@pytest.mark.slow
def test_failed_and_dead_dictionaries_do_not_end_it(tmp_path, store, sae, photos):
    dead = SparseAutoencoder(6, 6, ReLU(0.0)).eval()
    nan = SparseAutoencoder(6, 6, ReLU(0.0)).eval()
    with torch.no_grad():
        dead.b_enc.fill_(-1e9)
        nan.w_dec.fill_(torch.nan)
    rows = [{**ROW, "member": "one"}, {**ROW, "member": "dead", "l0": 0.0, "dead": 1.0}, BROKEN]
    page, _ = write(tmp_path, store, {"one": sae, "dead": dead, "broken": nan}, rows, images=photos)
    assert all(name in page.text for name in ("one", "dead", "broken", "diverged"))


def test_names_of_a_bank_fit_into_a_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results_table([{**ROW, "member": "sae=relu,sparsity=4e-3"}]))
    assert "sae=relu,sparsity=4e-3 " in console.export_text()


def test_every_column_of_an_evaluation_fits_into_a_terminal():
    numbers = {"correlation": 0.00597, "splice_recovered_cls": 0.8434, "splice_recovered_patches": 0.7654}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation_table([{**ROW, **numbers, "coherence": 6e-9, "splice_agreement": 1.0, "member": "k=16"}]))
    text = console.export_text()
    assert all(value in text for value in ("0.000", "0.006", "0.843", "0.765", "100.0")) and "…" not in text


def test_the_table_says_what_it_measures(monkeypatch):
    monkeypatch.setenv("SAEV_EXPLAIN", "1")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(results_table([{**ROW, "member": "k=[4]"}, BROKEN]))
    text = console.export_text()
    assert "k=[4]" in text and "diverged" in text and "held-out tokens: 120" in text
    assert all(value in text for value in ("0.346", "16.0", "12.3", "1.0", "0.900", "–"))
    assert np.all([label in text for label in ("NMSE", "L0", "dead (%)", "dense (%)", "coherence")])
