"""Pages of chosen latents, of a probe's classes, and by rule, with and without photos."""

import re

import polars as pl
import pytest
import torch
from PIL import Image

from saev.annotations import FILE, annotate
from saev.checkpoint import save_dictionary
from saev.nn import ReLU, SparseAutoencoder, TopK
from saev.shards import ActivationStore
from saev.visuals.choose import latents_of_classes


@pytest.fixture
def dictionary(tiny, tmp_path):
    """Of the tiny recording; its latents 0 to 15 are the dimensions, the others never fire."""
    sae = SparseAutoencoder(16, 24, ReLU(0.0))
    with torch.no_grad():
        sae.w_enc[:, :16], sae.w_dec[:16] = torch.eye(16), torch.eye(16)
        sae.w_dec[16:, 0] = 1
    about = {"dataset": str(tiny), "layer": 2, "token_roles": "patches"}
    return save_dictionary(sae, tmp_path / "saes" / "k=2", provenance=about)


@pytest.fixture
def probed(tmp_path):
    columns = ("labels", "class", "latent", "sign", "ap", "ap_low", "ap_high", "n_images_val", "prevalence")
    rows = [
        ("true", "wing", 3, 1, 0.5, 0.4, 0.6, 20, 0.25),
        ("true", "beak", 5, -1, 0.75, 0.7, 0.8, 30, 0.5),
        ("true", "tail", 3, 1, 0.9, None, None, 2, 0.001),  # the best, but of two images
        ("true", "none", None, None, None, None, None, 0, 0.0),
        ("permuted", "wing", 9, 1, 0.9, 0.8, 1.0, 20, 0.25),
    ]
    table = pl.DataFrame([{"member": "k=2", **dict(zip(columns, row, strict=True))} for row in rows])
    table.write_parquet(tmp_path / "classes.parquet")
    return tmp_path


def shown(cli, tmp_path, *arguments):
    result = cli("show", "device=cpu", f"hydra.run.dir={tmp_path / 'page'}", *map(str, arguments))
    assert result.code == 0, result.text
    page = tmp_path / "page" / "latents.html"
    assert str(page) in result.out
    return page.read_text(), result


def headings(page):
    return re.findall(r"<b>(Latent .*?)</b>", page)


def test_requested_latents_are_shown_in_that_order(cli, tiny, tmp_path, dictionary):
    page, result = shown(cli, tmp_path, dictionary, f"dataset={tiny}", "latents=[7,20,2]", "n_images=3")
    assert headings(page) == ["Latent 7", "Latent 20", "Latent 2"] and "The named latents" in page
    assert page.count('<button type="button" class="view') == 6 and "It fires on none of these images" in page
    assert re.search('data-grid="[0-9 ]+" data-map="..', page) and 'id="results"' not in page, (
        "maps, and no table without rows"
    )
    assert "no photos are shown: give the images that were recorded" in result.text


@pytest.mark.slow
def test_codes_are_read_where_they_are(cli, tiny, tmp_path, dictionary):
    assert cli("encode", str(dictionary), f"dataset={tiny}", "device=cpu", "latent_topk=all").code == 0
    (codes,) = (tmp_path / "outputs" / "codes").glob("tiny-*")
    page, result = shown(cli, tmp_path, dictionary, f"dataset={tiny}", "latents=[7,20]")
    assert f"from its codes in {codes}" in result.text
    of_codes, _ = shown(cli, tmp_path, codes, f"dataset={tiny}", "latents=[7,20]")
    assert headings(page) == headings(of_codes) == ["Latent 7", "Latent 20"]
    assert re.findall('data-map="[^"]*"', page) == re.findall('data-map="[^"]*"', of_codes)


def test_photos_of_another_folder_are_refused(cli, tiny, tmp_path, dictionary):
    """Guards against exit code 0 and a page that says below each latent that its photo is missing."""
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    result = cli("show", "device=cpu", str(dictionary), f"dataset={tiny}", "images=folder", f"images.root={tmp_path}")
    assert result.code == 1 and "does not have 40 of 40 images of tiny, e.g." in result.err
    assert "give the image set that was recorded" in result.err


def test_names_of_latents_are_in_the_captions(cli, tiny, tmp_path, dictionary):
    annotate(dictionary, 7, "eye <spot>")
    page, _ = shown(cli, tmp_path, dictionary, f"dataset={tiny}", "latents=[7,2]")
    assert headings(page) == ["Latent 7 (eye &lt;spot&gt;)", "Latent 2"]
    (dictionary / FILE).write_text("latent,name\n7,eye\n")
    refused = cli("show", "device=cpu", str(dictionary), f"dataset={tiny}", "latents=[7]")
    assert refused.code == 1 and "annotations.csv: without run" in refused.err


def test_without_any_the_rule_chooses(cli, tiny, tmp_path, dictionary):
    page, _ = shown(cli, tmp_path, dictionary, f"dataset={tiny}", "choice.n=2", "choice.commonest=0", "choice.images=1")
    assert len(headings(page)) == 2 and "chosen by rule" in page


def test_photos_are_those_that_were_recorded(cli, tiny, tmp_path, dictionary):
    for path in ActivationStore(tiny).examples["path"]:
        photo = tmp_path / "photos" / path
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(photo)
    images = ("images=folder", f"images.root={tmp_path / 'photos'}")
    page, result = shown(cli, tmp_path, dictionary, f"dataset={tiny}", "latents=4", *images)
    assert headings(page) == ["Latent 4"] and page.count("data:image/webp") == 8
    assert "no photos" not in result.text and 'class="warning"' not in page


def test_a_probes_classes_name_their_latents(cli, tiny, tmp_path, dictionary, probed):
    page, _ = shown(cli, tmp_path, dictionary, f"dataset={tiny}", f"probe={probed}")
    tail = "tail, AP 0.90 [–], 2 images, 0.1 % of tokens"
    assert headings(page) == [
        "Latent 5: not beak, AP 0.75 [0.70, 0.80], 30 images, 50.0 % of tokens",
        f"Latent 3: wing, AP 0.50 [0.40, 0.60], 20 images, 25.0 % of tokens; {tail}",
    ]
    page, result = shown(cli, tmp_path, dictionary, f"dataset={tiny}", f"probe={probed}", "classes=tail", "choice.n=3")
    assert headings(page) == [f"Latent 3: {tail}"]
    assert "choice.n=3: no effect beside latents= or probe=" in result.text


def test_only_so_many_classes_without_being_asked(probed):
    table = pl.DataFrame(
        {
            "member": "a",
            "class": [f"c{i}" for i in range(30)],
            "latent": range(30),
            "sign": 1,
            "ap": 0.5,
            "n_images_val": 9,
            "prevalence": 0.1,
        }
    )
    assert len(latents_of_classes(table, "a")) == 24


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["latents=[24]"], r"latents: 24 is not in k=2, whose latents are 0 to 23"),
        (["latents=[wing]"], r"give their numbers, e.g. latents=\[12,965\]"),
        (["latents=[]"], r"give their numbers"),
        (["latents=[1]", "probe=x"], r"give one of them"),
        (["classes=[wing]"], r"give the probe run that scored"),
        (["classes=wing"], r"classes=\['wing'\]: give the probe run"),
        (["choice.n=0"], r"choice\.n=0: must be at least 1"),
        (["probe=/nope"], r"it has no classes\.parquet"),
        (["probe={probed}", "classes=[none,wing]"], r"has no latent for none; choose among \['beak', 'tail', 'wing'\]"),
        (["n_images=0"], r"n_images=0: must be at least 1"),
        (["examples=some"], r"choose held_out or all"),
        (["images=folder", "images.root=/nope"], r"/nope"),
    ],
)
def test_what_cannot_be_shown_is_reported_at_once(cli, tiny, dictionary, probed, arguments, said):
    result = cli(
        "show", str(dictionary), f"dataset={tiny}", "device=cpu", *(a.format(probed=probed) for a in arguments)
    )
    assert result.code == 1 and re.search(said, result.text), result.text


def test_a_diverged_dictionary_is_named(cli, tiny, tmp_path, dictionary):
    sae = SparseAutoencoder(16, 24, ReLU(0.0))
    with torch.no_grad():
        sae.w_dec.fill_(torch.nan)
    broken = save_dictionary(sae, tmp_path / "saes" / "broken", provenance={"layer": 2})
    page, _ = shown(cli, tmp_path, dictionary, broken, f"dataset={tiny}", "latents=1")
    assert headings(page) == ["Latent 1"] and "<h3>broken</h3><p>Diverged" in page


def test_a_probe_of_other_dictionaries_is_refused(cli, tiny, tmp_path, probed):
    other = save_dictionary(SparseAutoencoder(16, 24, TopK(2)), tmp_path / "other", provenance={"layer": 2})
    result = cli("show", str(other), f"dataset={tiny}", f"probe={probed}", "device=cpu")
    assert result.code == 1 and "it has no class of other; it has those of k=2" in result.text
