"""saev contrast: tables and a page from the command line; what is planted is found, and refusals come before anything slow."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from explore.browser import browsing
from PIL import Image
from trait_evaluation.sources.recorded import recorded
from validating import assert_valid

import saev
from saev.contrasts.settings import ContrastSettings, Groups
from saev.nn import Normaliser, SparseAutoencoder, TopK

N, D, PLANTED, VIEW = 80, 8, 3, 5
FAST = ("permutations=99", "bootstrap=50", "device=cpu", "batch_size=100", "folds=3", "baseline_size=8", "shown=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """80 images of two species, of specimens with two views: latent 3 fires on `erato` alone, latent 5 on dorsal views."""
    root = tmp_path_factory.mktemp("contrast")
    rows = [
        {
            "species": "erato" if i < N // 2 else "melpomene",
            "view": ("dorsal", "ventral")[i % 2],
            "specimen": f"s{i // 2}",
            "hybrid": "yes" if i in (7, 60) else "no",
            "half": "one" if i < N // 2 or i % 2 else "two",
        }
        for i in range(N)
    ]
    shift = np.zeros((N, D))
    shift[: N // 2, 0] = 4  # erato
    shift[::2, 1] = 4  # dorsal
    recorded(root / "activations", rows, shift=shift)
    sae = SparseAutoencoder(D, 64, TopK(4), Normaliser(torch.zeros(D), torch.ones(())))
    with torch.no_grad():
        sae.w_enc.copy_(torch.randn(D, 64, generator=torch.Generator().manual_seed(0)))
        sae.w_enc[:2] = 0  # others do not see what is planted
        sae.w_enc[:, PLANTED], sae.w_enc[:, VIEW] = 2 * torch.eye(D)[0], 2 * torch.eye(D)[1]
        sae.w_dec.copy_(torch.nn.functional.normalize(sae.w_enc.T, dim=1))
    saev.save_dictionary(sae.eval(), root / "saes" / "planted", provenance={"layer": 4, "token_roles": "patches"})
    (root / "photos").mkdir()
    for i in range(N):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(root / "photos" / f"{i}.jpg")
    return root


def contrasted(cli, place, *arguments, run=None):
    """The tables by name, the page and what was printed."""
    folders = f"codes={place / 'codes'}", f"dataset={place / 'activations'}"
    shown = cli("contrast", str(run or place / "saes" / "planted"), *folders, *FAST, *arguments)
    assert shown.code == 0, shown.text
    files = dict(
        line.split(None, 1) for line in shown.out.splitlines() if re.match(r"(page|results|contrast|across):", line)
    )
    folder = Path(files["page:"]).parent
    tables = {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}
    return tables, Path(files["page:"]).read_text(), shown


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def test_a_planted_latent_is_found_with_its_images(cli, place):
    tables, page, shown = contrasted(
        cli, place, "a=species=erato", "b=species=melpomene", "third=hybrid=yes", "group=specimen", "images=folder",
        f"images.root={place / 'photos'}",
    )  # fmt: skip
    rows = tables["contrast"].filter(pl.col("method") == "planted")
    best = rows.sort(pl.col("z").abs(), descending=True).row(0, named=True)
    assert best["latent"] == PLANTED and best["z"] > 0 and best["p_family"] <= 0.05
    codes = saev.CodeStore(next((place / "codes").glob("[!.]*")))
    images, pooled = codes.images, codes.pooled("max").toarray()
    erato = np.array([name == "erato" for name in images["species"]])
    fires = pooled[:, PLANTED] > 0
    assert best["fires_a"] == pytest.approx(fires[erato].mean()) and best["fires_b"] == pytest.approx(
        fires[~erato].mean()
    )
    assert best["difference"] == pytest.approx(pooled[erato, PLANTED].mean() - pooled[~erato, PLANTED].mean(), rel=1e-5)
    results = {row["method"]: row for row in tables["results"].iter_rows(named=True)}
    assert {*results} == {"planted", "random_vectors", "channels"}
    assert results["planted"]["latent"] == PLANTED and results["planted"]["higher"] == "a"
    assert results["planted"]["diff"] is not None and results["random_vectors"]["diff"] is None
    assert (
        results["planted"]["clusters_a"] == N // 4
        and results["planted"]["accuracy"] > results["planted"]["accuracy_null"]
    )
    weights = tables["classifier"].filter(pl.col("method") == "planted")
    assert weights["latent"][0] == PLANTED and weights["weight"][0] > 0
    path = tables["path"].filter(pl.col("method") == "planted")
    assert len(path) == 8 and path["n_latents"].is_sorted() and path["inner_accuracy"].max() > 0.9
    assert "planted" in shown.out and "erato / melpomene" in shown.out
    checked = cli("doctor", str(Path(re.search(r"page:\s+(\S+)", shown.out)[1]).parent))
    assert checked.code == 0 and "finished: " in checked.out, checked.text

    data = data_of(page)
    card = data["cards"][0][0][str(PLANTED)]
    assert (
        data["methods"] == ["planted"]
        and data["pairs"][0]["sizes"] == [40, 40, 0]
        and data["pairs"][0]["specimens"] == [20, 20]
    )
    examples = [data["images"][i][0] for i in data["pairs"][0]["images"]]
    row = {example: i for i, example in enumerate(images["example"].to_list())}
    assert card["codes"] == pytest.approx([float(pooled[row[example], PLANTED]) for example in examples], rel=1e-3)
    top = card["rows"]["a_high"]
    assert card["codes"][top[0]] == max(card["codes"][:40])
    for position, coded in card["maps"].items():  # as the page decodes them
        example = examples[int(position)]
        drawn = np.frombuffer(base64.b64decode(coded), np.uint8) / 255 * card["upper"]
        assert drawn == pytest.approx(codes.map(PLANTED, example).ravel(), abs=card["upper"] / 255)
        assert f".p{example} " in page  # its photo
    means, shape, largest = card["means"]
    mean = np.mean([codes.map(PLANTED, example) for example in examples[:40]], 0)
    assert np.frombuffer(base64.b64decode(means[0]), np.uint8) / 255 * largest == pytest.approx(
        mean.ravel(), abs=largest / 255
    )
    assert shape == [1, 2]


@pytest.mark.slow
def test_the_page_is_valid(cli, place):
    images = ("images=folder", f"images.root={place / 'photos'}")
    groups = ("a=species=erato", "b=species=melpomene", "third=hybrid=yes")
    _, page, _ = contrasted(cli, place, *groups, "channels=false", *images)
    assert_valid(page)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_page_draws_marked_photos_that_are_enlarged(cli, place, tmp_path):
    photos = ("images=folder", f"images.root={place / 'photos'}")
    _, page, _ = contrasted(
        cli, place, "a=species=erato", "b=species=melpomene", "channels=false", "classifier=false", *photos
    )
    (tmp_path / "contrast.html").write_text(page)
    with browsing(f"file://{tmp_path / 'contrast.html'}", tmp_path / "profile") as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=420, height=800, deviceScaleFactor=2, mobile=True)
        browser.until("document.querySelectorAll('#card .strip .marks path.light').length")
        assert browser.js("document.documentElement.scrollWidth") == 420
        assert f"latent {PLANTED}" in browser.js("document.querySelector('#card .caption').textContent")
        browser.js("document.querySelector('#card .view').focus()")
        browser.press("Enter")
        browser.until("document.querySelector('dialog').open && !!document.querySelector('dialog .marks')")
        assert f"latent {PLANTED}" in browser.js("document.querySelector('dialog .about').textContent")
        browser.press("Escape")
        browser.until("!document.querySelector('dialog').open")
        assert not browser.errors


def test_a_view_separates_no_groups_within_its_values(cli, place, tmp_path):
    skewed = tmp_path / "groups.csv"
    side = ["x" if (i % 2 == 0) == (i % 5 != 0) else "y" for i in range(N)]  # mostly by view
    skewed.write_text("image,side\n" + "".join(f"{i},{name}\n" for i, name in enumerate(side)))
    groups = (f"table={skewed}", "a=side=x", "b=side=y", "baselines=[]", "channels=false", "classifier=false")
    plain, within = (contrasted(cli, place, *groups, *more)[0]["contrast"] for more in ((), ("strata=view",)))
    confounded = [table.filter(pl.col("latent") == VIEW).row(0, named=True) for table in (plain, within)]
    assert confounded[0]["p_family"] <= 0.05 and abs(confounded[1]["z"]) < abs(confounded[0]["z"]) / 2
    assert confounded[1]["p_family"] > 0.05


def test_all_pairs_of_a_column_and_latents_across_them(cli, place):
    tables, page, _ = contrasted(cli, place, "by=species", "where=view=dorsal", "compat=saev", "classifier=false")
    assert tables["results"]["pair"].unique().to_list() == ["erato / melpomene"] and tables["results"]["n_a"][0] == 20
    pairs = place / "pairs.csv"
    pairs.write_text(
        "name,a,b,where\ndorsal,species=erato,species=melpomene,view=dorsal\nventral,species=erato,species=melpomene,view=ventral\n"
    )
    tables, page, _ = contrasted(cli, place, f"pairs={pairs}", "classifier=false", "channels=false")
    across = tables["across"].filter((pl.col("method") == "planted") & (pl.col("latent") == PLANTED)).row(0, named=True)
    assert across["separated"] == 2 and across["higher_a"] == 2 and across["smallest_d"] > 0.5
    assert "Latents across pairs" in page and f"{PLANTED} of planted" in page


@pytest.mark.slow
def test_names_of_latents_are_in_tables_and_on_the_page(cli, place, tmp_path):
    for run in ("one", "two"):
        about = {"layer": 4, "token_roles": "patches", "dataset": "activations"}
        folder = tmp_path / run / "saes" / run
        saev.save_dictionary(saev.load(place / "saes" / "planted"), folder, provenance=about)
        saev.annotate(folder, PLANTED, f"band <{run}>")
    (tmp_path / "outputs").mkdir(exist_ok=True)
    (tmp_path / "outputs" / "activations").symlink_to(place)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("name,a,b\nx,species=erato,species=melpomene\ny,species=melpomene,species=erato\n")
    tables, page, shown = contrasted(cli, place, f"pairs={pairs}", f"runs=[{tmp_path / 'two'}]", run=tmp_path / "one")
    for name in ("contrast", "across", "classifier", "results", "partners"):
        table = tables[name].filter(pl.col("method") == "one")
        names = dict(table.select("latent", "name").iter_rows())
        assert names.pop(PLANTED) == "band <one>" and {*names.values()} <= {None}, name
        assert tables[name].columns[tables[name].columns.index("latent") + 1] == "name"
    assert tables["contrast"].filter(pl.col("method") == "channels")["name"].null_count()
    partner = tables["partners"].filter(pl.col("latent") == PLANTED).row(0, named=True)
    assert partner["partner"] == PLANTED and partner["partner_name"] == "band <two>"
    assert data_of(page)["names"] == [{str(PLANTED): "band <one>"}]
    assert page.count(f"{PLANTED} (band &lt;one&gt;) of one") == 2  # across pairs, partners
    assert f"{PLANTED} (band &lt;two&gt;): 1.00" in page and f"{PLANTED} (band" in shown.out


@pytest.mark.slow
def test_partners_in_another_run(cli, place):
    sae = saev.load(place / "saes" / "planted")
    with torch.no_grad():
        sae.w_enc.copy_(sae.w_enc.roll(7, 1))
        sae.w_dec.copy_(sae.w_dec.roll(7, 0))
    provenance = {"layer": 4, "token_roles": "patches"}
    saev.save_dictionary(sae, place / "rolled" / "saes" / "rolled", provenance=provenance)
    tables, page, _ = contrasted(
        cli, place, "by=species", f"runs=[{place / 'rolled'}]", "classifier=false", "channels=false"
    )
    row = tables["partners"].filter(pl.col("latent") == PLANTED).row(0, named=True)
    assert row["partner"] == PLANTED + 7 and row["matched"] and row["correlation"] == pytest.approx(1, abs=1e-3)
    assert row["jaccard"] == 1 and row["run"] == "rolled" and row["n_images"] == N
    assert "The same latents in other runs" in page and "1 of 1" in page


@pytest.mark.slow
def test_few_specimens_and_strata_of_one_group_are_said(place, caplog, tmp_path):
    caplog.set_level("INFO")
    settings = ContrastSettings(
        baselines=(), channels=False, classifier=False, permutations=99, bootstrap=0, group="specimen"
    )
    groups = {"a": {"specimen": ["s0", "s1", "s2"]}, "b": {"specimen": ["s30", "s31", "s32"]}, "min_images": 2}
    result = saev.contrast(
        place / "saes" / "planted", Groups(**groups), settings, dataset=place / "activations", directory=tmp_path
    )
    assert "3 and 3 (specimen) have so few arrangements that no p is below 0.1" in caplog.text
    row = result.results.row(0, named=True)
    assert row["separating"] == 0 and row["auroc"] is not None and row["auroc_high"] is None
    with pytest.raises(ValueError, match="is of a single specimen: give several"):
        saev.contrast(
            place / "saes" / "planted", Groups(a="specimen=s0", b="specimen=s1", min_images=2), settings,
            dataset=place / "activations", directory=tmp_path,
        )  # fmt: skip
    with pytest.raises(ValueError, match="called 'channels'"):
        saev.contrast(
            {"channels": saev.load(place / "saes" / "planted")}, Groups(by="species"), settings,
            dataset=place / "activations", layers=[4], directory=tmp_path,
        )  # fmt: skip


def test_the_library_compares_dictionaries_in_memory(place, tmp_path):
    sae = saev.load(place / "saes" / "planted")
    settings = ContrastSettings(baselines=(), channels=False, classifier=False, permutations=99, bootstrap=0)
    result = saev.contrast(
        {"mine": sae}, Groups(a={"species": "erato"}, b={"species": "melpomene"}), settings,
        dataset=place / "activations", layers=[4], directory=tmp_path,
    )  # fmt: skip
    assert result.results.row(0, named=True)["latent"] == PLANTED and len(result.cards) == 8
    assert (tmp_path / "contrast.parquet").is_file() and result.contrast["name"].null_count() == 64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no groups are named"),
        (("a=species=erato", "b=species=melpo"), "did you mean melpomene?"),
        (("a=spezies=erato", "b=species=melpomene"), "did you mean species or specimen?"),
        (("a=species=erato", "b=view=dorsal"), "are in both groups"),
        (("by=species", "group=hybrid"), "group=hybrid: no, yes of erato / melpomene in both groups"),
        (("by=species", "strata=species"), "strata=species: no value has images in both groups"),
        (("by=species", "min_images=50"), "min_images=50: no pair"),
        (("by=species", "permutations=5"), "permutations=5: must be at least 19"),
        (("by=species", "images=folder", "images.root=/nowhere"), "/nowhere"),
        (("by=species", "layer=[5]"), "layer"),
        (("by=species", "baselines=[]", "channels=false", "dataset=/nowhere"), "/nowhere"),
        (("by=species", "group=specimen", "strata=half"), "group=specimen: no specimen of one group"),
        (("by=species", "group=species", "min_images=2"), "group=species"),
        (("by=species", "runs=/nowhere"), "/nowhere is not there"),
    ],
)
def test_what_does_not_fit_is_refused(cli, place, arguments, said):
    given = () if any(one.startswith("dataset=") for one in arguments) else (f"dataset={place / 'activations'}",)
    shown = cli("contrast", str(place / "saes" / "planted"), *given, *FAST, *arguments)
    assert shown.code != 0 and said in shown.text and "Traceback" not in shown.text, shown.text
