"""The page and the table of `saev traits`, from small tables."""

import polars as pl
import pytest
from PIL import Image
from rich.console import Console
from trait_evaluation.sources.recorded import recorded
from validating import assert_valid

from saev.images import FolderImages
from saev.shards import ActivationStore
from saev.visuals.traits_page import best_methods, write_traits_page
from saev.visuals.traits_table import full, traits_table

WHERE = {
    "labels": "true",
    "train": "a",
    "test": "a",
    "layer": 4,
    "unit": "image",
    "pool": "max",
    "label_mode": None,
    "protocol": "strict",
}
NAMES = ["red <b>", "round"]


def trait(name: str, method: str, ap: float, low: float | None, n_train: int = 30, n_prototypes: int = 8, **other):
    row = {
        "trait": name,
        "method": method,
        "kind": "sae",
        "n_latents": 1,
        "n_train": n_train,
        "n_prototypes": n_prototypes,
    }
    row |= {
        "prototype": 3,
        "test_ap": ap,
        "ap_low": low,
        "ap_high": None,
        "prevalence": 0.4,
        "constant_ap": 0.4,
        "n_pos_test": 4,
    }
    return {**row, "n_test": 10, "seed": 0, "dictionary": method, **WHERE, **other}


def means(method: str, value: float, n_train: int = 30, n_prototypes: int = 8, **other):
    row = {
        "method": method,
        "kind": "sae",
        "n_latents": 1,
        "n_train": n_train,
        "n_prototypes": n_prototypes,
        "map": value,
    }
    row |= {
        "map_low": value - 0.1,
        "map_high": value + 0.1,
        "constant_map": 0.4,
        "silent": 0,
        "unselected": 0,
        "n_traits": 2,
    }
    return {**row, **WHERE, **other}


@pytest.fixture
def tables():
    traits = [trait(name, method, ap, low) for name, method, ap, low in (
        ("red <b>", "a", 0.8, 0.5), ("red <b>", "b", 0.9, 0.7), ("round", "a", 0.95, 0.85), ("round", "b", 0.5, None))]  # fmt: skip
    traits += [trait("round", "b", 0.99, 0.98, n_train=5)]  # not of the largest cell
    results = [
        means("a", 0.7),
        means("b", 0.8, diff=0.1, diff_low=0.05, diff_high=0.2, better=2),
        means("b", 0.9, n_train=5),
    ]
    images = [
        {"trait": name, "prototype": 3, "what": what, "rank": 0, "example": i, "score": 1.0, "has": has, "method": method, "layer": 4}
        for name, method in (("red <b>", "b"), ("round", "a"))
        for what, i, has in (("top", 0, True), ("top", 1, False), ("missed", 2, True))
    ]  # fmt: skip
    return tuple(pl.DataFrame(rows, infer_schema_length=None) for rows in (traits, results, images))


@pytest.fixture
def photos(tmp_path) -> tuple[ActivationStore, FolderImages]:
    store = recorded(tmp_path / "data", [{} for _ in range(4)])
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (60 * i, 0, 0)).save(tmp_path / "photos" / f"{i}.jpg")
    return store, FolderImages(root=str(tmp_path / "photos"))


def test_the_page_has_every_trait_escaped_and_frames_the_images(tables, photos, tmp_path):
    store, images = photos
    traits, results, of_traits = tables
    page = write_traits_page(
        tmp_path / "traits.html", traits, results, of_traits, store=store, images=images, files={"results": tmp_path / "r.csv"}
    ).read_text()  # fmt: skip
    assert "red &lt;b&gt;" in page and "red <b>" not in page and "http" not in page.replace("http://www.w3.org", "")
    assert page.count('class="shown has"') == 4 and page.count('class="shown hasnot"') == 2
    assert page.count("<img") == 2 and "data-map=" not in page  # no dictionary, no maps
    assert 'href="r.csv"' in page


@pytest.mark.slow
def test_the_page_is_valid(tables, photos, tmp_path):
    store, images = photos
    assert_valid(write_traits_page(tmp_path / "traits.html", *tables, store=store, images=images).read_text())


def test_a_page_without_photos_has_no_pictures(tables, photos, tmp_path):
    page = write_traits_page(tmp_path / "traits.html", *tables, store=photos[0]).read_text()
    assert "figcaption>" not in page.split("</style>")[1]


def test_traits_are_ordered_by_how_far_their_interval_is_above_a_constant_score(tables):
    best = best_methods(tables[0])
    assert best.select("trait", "method").rows() == [("round", "a"), ("red <b>", "b")]


def test_the_table_shows_the_largest_cell_with_its_intervals(tables):
    assert len(full(tables[1])) == 2
    console = Console(width=120, record=True)
    console.print(traits_table(tables[1]))
    text = console.export_text()
    assert "0.800 [0.70, 0.90]" in text and "0.100 [0.05, 0.20]" in text and "2/2" in text
    assert "constant score" in text and "0.400" in text
    assert text.index("b ") < text.index("a ") and "silent" not in text
