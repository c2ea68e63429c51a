"""Partners of latents in another dictionary against whole matrices, and dictionaries that are the same in another order."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from explore.conftest import Outputs, topk

import saev
from saev.explore import cards
from saev.explore.compare import KINDS, compare, shared_rows
from saev.explore.opened import Opened
from saev.explore.opening import open_dictionary, prepare
from saev.nn import Normaliser


def opened_copy(outputs: Outputs, folder: Path, sae: saev.SparseAutoencoder, layer: int = 2) -> Opened:
    about = {
        "dataset": (outputs.root / "activations").iterdir().__next__().name,
        "layer": layer,
        "token_roles": "patches",
    }
    saev.save_dictionary(sae, folder / "other", provenance=about)
    session = dataclasses.replace(outputs.session(), codes=folder / "codes")
    prepare(str(folder / "other"), session)
    one = open_dictionary(str(folder / "other"), session)
    assert one is not None
    return one


@pytest.fixture(scope="session")
def shuffled(outputs: Outputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Opened, np.ndarray]:
    """The dictionary `opened` with its latents in another order, and the order."""
    sae, order = topk(4), np.random.default_rng(0).permutation(40)
    with torch.no_grad():
        for name, rows in (("w_dec", sae.w_dec[order]), ("w_enc", sae.w_enc[:, order]), ("b_enc", sae.b_enc[order])):
            getattr(sae, name).copy_(rows)
    return opened_copy(outputs, tmp_path_factory.mktemp("shuffled"), sae), order


@pytest.mark.parametrize("by_codes", [False, True])
def test_a_dictionary_in_another_order_has_all_latents(opened, shuffled, by_codes):
    other, order = shuffled
    made = compare(opened, other, by_codes)
    fires = opened.latents["images"].to_numpy() > 0
    table = made.pairs.filter(pl.col("where") == KINDS[0]).sort("latent")
    expected = np.flatnonzero(fires) if by_codes else np.arange(40)  # silent latents have no codes to correlate
    np.testing.assert_array_equal(table["latent"], expected)
    np.testing.assert_array_equal(order[table["other"].to_numpy()], expected)
    assert table["similarity"].min() > 0.9999 and table["mutual"].all()
    assert made.counts == (len(expected), 40, len(expected), 40) and made.null < 0.2
    assert ("correlation of codes over 40 images" if by_codes else "cosine of atoms") in made.summary()
    card = cards.pair_card(opened, other, int(table["latent"][0]), int(table["other"][0]))
    first, second = ([cell["example"] for cell in side["cells"]] for side in card["sides"])
    assert first == second and card["sides"][1]["latent"] == table["other"][0]


def test_other_latents_are_matched_by_the_largest_correlation(opened, outputs, tmp_path):
    other = opened_copy(outputs, tmp_path, topk(3))
    made = compare(opened, other, by_codes=True)
    dense = [one.pooled.toarray().astype(np.float64) for one in (opened, other)]
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.nan_to_num(np.corrcoef(dense[0].T, dense[1].T)[:40, 40:])
    rows = made.pairs.filter(pl.col("where") != KINDS[2]).sort("latent")
    np.testing.assert_allclose(rows["similarity"], correlation.max(1), atol=1e-5)
    np.testing.assert_allclose(
        correlation[rows["latent"].to_numpy(), rows["other"].to_numpy()], correlation.max(1), atol=1e-5
    )
    assert (rows["where"] == KINDS[0]).to_list() == (rows["similarity"] >= 0.5).to_list()
    only = made.pairs.filter(pl.col("where") == KINDS[2])
    np.testing.assert_array_equal(only["other"].sort(), np.flatnonzero(correlation.max(0) < 0.5))
    assert made.counts[2] == 40 - len(only)


def test_of_another_layer_codes_are_compared(opened, outputs, tmp_path):
    other = opened_copy(outputs, tmp_path, topk(3), layer=1)
    assert compare(opened, other).by == "correlation of codes"
    with pytest.raises(ValueError, match="atoms of different recordings or layers"):
        compare(opened, other, by_codes=False)
    none = dataclasses.replace(other)
    renamed = other.codes.images.with_columns(path=pl.lit("else"))
    none.codes.__dict__["images"] = renamed
    with pytest.raises(ValueError, match="no encoded images in common"):
        compare(opened, none)


def test_atoms_are_compared_as_directions_of_raw_activations(opened, outputs, tmp_path):
    """The same atoms, but one dictionary scales each dimension by itself: these are other directions."""
    sae = topk(4)
    sae.normaliser = Normaliser(sae.normaliser.mean.clone(), torch.linspace(1, 4, 16) ** 2)
    other = opened_copy(outputs, tmp_path, sae)
    made = compare(opened, other)
    a, b = (one.dictionary.atoms.detach() for one in (opened, other))
    cosines = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b * sae.normaliser.scale, dim=1).T
    rows = made.pairs.filter(pl.col("where") != KINDS[2]).sort("latent")
    np.testing.assert_allclose(rows["similarity"], cosines.max(1).values, atol=1e-5)
    assert rows["similarity"].max() < 0.99


def test_at_most_so_many_images_are_correlated(opened, shuffled, monkeypatch):
    monkeypatch.setattr("saev.explore.compare.MOST", 7)
    a, b = shared_rows(opened, shuffled[0])
    assert len(a) == 7 and a[0] == 0 and a[-1] == 39
    paths = [one.codes.images["path"].gather(rows).to_list() for one, rows in ((opened, a), (shuffled[0], b))]
    assert paths[0] == paths[1]
