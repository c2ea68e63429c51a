"""Images and neighbours of a latent, and latents of patches, against dense arrays; what the page draws of them."""

import base64
import dataclasses

import numpy as np
import polars as pl
import pytest
import torch
from codes.dictionaries import OneHot, Signed, sae
from codes.test_encoding import encoded, selection

from saev.codes import CodeStore, EncodeSettings
from saev.explore import cards
from saev.explore.image import patch_latents, strongest
from saev.explore.latent import chosen_images, cofiring, column, histograms, neighbours
from saev.visuals.columns import digits

TOP = 3


def test_a_column_and_its_images_are_those_of_the_dense_codes(opened):
    dense = opened.pooled.toarray()
    for latent in range(opened.codes.n_latents):
        rows, values = column(opened.codes, latent)
        np.testing.assert_array_equal(rows, np.flatnonzero(dense[:, latent]))
        np.testing.assert_array_equal(values, dense[rows, latent])
        images = chosen_images(rows, values, 5)
        highest, random, spread = images.values()
        np.testing.assert_array_equal(highest, np.argsort(-dense[:, latent], kind="stable")[: min(5, len(rows))])
        assert {*random.tolist()} <= {*rows.tolist()} and len({*random.tolist()}) == min(5, len(rows))
        assert (np.diff(dense[spread, latent]) <= 0).all() and len(spread) == min(5, len(rows))
        if len(rows):
            assert dense[spread[0], latent] == values.max() and dense[spread[-1], latent] == values.min()
        by_image, by_token, by_fraction = (table for _, _, table in histograms(opened.codes, latent))
        tokens = [opened.codes.image(int(opened.examples[row])).dense()[:, latent] for row in rows]
        assert by_image["n"].sum() == by_fraction["n"].sum() == len(rows)
        assert by_token["n"].sum() == sum(np.count_nonzero(codes) for codes in tokens)
        if len(rows):
            fractions = [np.mean(codes != 0) for codes in tokens]
            np.testing.assert_array_equal(by_fraction["n"], np.histogram(np.float32(fractions), 24)[0])
            assert by_token["high"][-1] == pytest.approx(max(codes.max() for codes in tokens))


@pytest.mark.parametrize("kind", ["relu", "signed", "one-hot"])
def test_a_column_is_that_of_the_pooled_codes_of_any_dictionary(kind, tiny, tmp_path):
    """Negative codes, one of them on every token, images with ignored tokens."""
    made = {"relu": lambda: sae("relu"), "signed": Signed, "one-hot": OneHot}[kind]()
    codes = encoded(tmp_path, selection(tiny), made, EncodeSettings(latent_topk="all"), batch_size=100)
    pooled = codes.pooled("max").tocsc()
    for latent in range(codes.n_latents):
        rows, values = column(codes, latent)
        stored = slice(*pooled.indptr[latent : latent + 2])
        np.testing.assert_array_equal(rows, pooled.indices[stored])
        np.testing.assert_array_equal(values, pooled.data[stored])


def test_neighbours_have_the_highest_cosines(opened):
    dense = opened.pooled.toarray().astype(np.float64)
    atoms = opened.one.load("cpu").atoms.detach()
    busiest = int(np.argmax((dense != 0).sum(0)))
    for latent in (3, busiest, 39):
        near = neighbours(opened.unit_atoms, opened.pooled, opened.norms, latent, column(opened.codes, latent), n=6)
        by_atom = torch.nn.functional.cosine_similarity(atoms, atoms[latent : latent + 1]).numpy()
        scale = np.linalg.norm(dense, axis=0) * np.linalg.norm(dense[:, latent])
        by_code = np.divide(dense.T @ dense[:, latent], scale, out=np.zeros(len(scale)), where=scale > 0)
        for by, expected in (("atom", by_atom), ("co-firing", by_code)):
            rows = near.filter(pl.col("by") == by)
            expected[latent] = -np.inf
            np.testing.assert_allclose(rows["cosine"], np.sort(expected)[::-1][:6], atol=1e-5)
            np.testing.assert_allclose(expected[rows["latent"].to_numpy()], rows["cosine"], atol=1e-5)


def test_products_of_a_latent_that_fires_often_are_estimated_from_some_of_its_images(opened, monkeypatch):
    dense = opened.pooled.toarray().astype(np.float64)
    latent = int(np.argmax((dense != 0).sum(0)))
    rows, values = column(opened.codes, latent)
    monkeypatch.setattr("saev.explore.latent.MOST", 5)
    chosen = rows[np.linspace(0, len(rows) - 1, 5).astype(int)]
    expected = dense[chosen].T @ dense[chosen, latent] * len(rows) / 5
    scale = opened.norms[latent] * np.where(opened.norms > 0, opened.norms, np.inf)
    np.testing.assert_allclose(cofiring(opened.pooled, opened.norms, latent, rows, values), expected / scale, rtol=1e-5)


@pytest.mark.parametrize("top", [TOP, 16])
def test_patches_have_their_largest_codes(opened, top):
    for example in (0, 17, 39):
        dense = opened.codes.image(example).dense()
        patches = patch_latents(opened.codes, example, top)
        assert patches is not None and patches.grid == (4, 4) and patches.latents.shape == (16, top)
        expected = np.sort(dense, axis=1)[:, ::-1][:, :top]
        np.testing.assert_array_equal(patches.codes, np.maximum(expected, 0))
        some = patches.latents >= 0
        np.testing.assert_array_equal(some, expected > 0)
        np.testing.assert_array_equal(dense[np.nonzero(some)[0], patches.latents[some]], patches.codes[some])
        latents, codes = strongest(opened.codes, example, 5)
        np.testing.assert_array_equal(codes, np.sort(dense.max(0))[::-1][:5])
        np.testing.assert_array_equal(dense.max(0)[latents], codes)


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_the_card_of_an_image_has_the_codes_of_its_patches(opened):
    card, patches = cards.image_card(opened, 7), patch_latents(opened.codes, 7)
    assert (
        patches is not None
        and card["grid"] == [4, 4]
        and card["path"] == "7.jpg"
        and card["src"].startswith("data:image/webp")
    )
    latents = np.array(card["names"])[unpacked(card["latents"], "<u2")]
    np.testing.assert_array_equal(latents.reshape(16, 16), patches.latents)
    shown = unpacked(card["codes"], "u1").reshape(16, 16) / 255 * card["upper"]
    np.testing.assert_allclose(shown, patches.codes, atol=card["upper"] / 255)
    assert ((shown > 0) == (patches.codes > 0)).all(), "a small code is not 0"
    known = {str(j) for j in patches.latents[patches.latents >= 0]} | {str(j) for j, _ in card["strongest"]}
    assert {*card["about"]} == known


def test_errors_of_patches_are_those_of_the_decoded_codes(opened):
    """Against float64 activations and the mean squared distance of all patch tokens from their mean."""
    store, layer = opened.store, opened.codes.manifest.layer
    acts = [store.read(layer, i, "patches").astype(np.float64) for i in range(40)]
    mean = np.concatenate(acts).mean(0)
    scale = np.mean([((x - mean) ** 2).sum(1).mean() for x in acts])
    assert opened.mean_error == pytest.approx(scale, rel=1e-5)
    with torch.inference_mode():
        decoded = opened.dictionary.decode(torch.from_numpy(opened.codes.image(7).dense())).numpy()
    expected = ((acts[7] - decoded) ** 2).sum(1) / scale
    np.testing.assert_allclose(opened.errors(7).ravel(), expected, rtol=1e-4)
    error = cards.image_card(opened, 7)["error"]
    assert error["mean"] == digits(float(expected.mean())) and error["upper"] == pytest.approx(expected.max(), rel=1e-4)
    assert unpacked(error["map"], "u1").max() == 255
    without = dataclasses.replace(opened, store=None)
    assert cards.image_card(without, 7)["error"] is None


def test_the_card_of_a_latent_has_maps_of_its_images(opened):
    card = cards.latent_card(opened, 3, n=4)
    assert [len(cells) for cells in card["rows"].values()] == [4, 4, 4]
    assert sum(card["histograms"][0]["bars"]) == opened.latents["images"][3]
    best = next(iter(card["rows"].values()))[0]
    codes = opened.codes.map(3, best["example"])
    assert card["upper"] == pytest.approx(codes.max())
    np.testing.assert_array_equal(
        unpacked(best["map"], "u1").reshape(4, 4), np.ceil(255 * np.clip(codes / card["upper"], 0, 1))
    )
    assert ("best class", "wing") in card["facts"] and all(j != 3 for rows in card["near"].values() for j, *_ in rows)
    silent = cards.latent_card(opened, 39)
    assert (
        not any(silent["rows"].values())
        and not any(one["bars"] for one in silent["histograms"])
        and silent["upper"] == 0
    )
    assert [*cards.gallery_card(opened, opened.latents, latents=3)["latents"]] and not cards.gallery_card(
        opened, opened.latents[39:]
    )["latents"]


def test_photos_that_are_missing_leave_the_maps(outputs):
    from saev.explore.opening import Session, open_dictionary

    root = outputs.root
    one = open_dictionary(str(outputs.dictionary), Session((root,), root / "codes", root / "activations"))
    assert one is not None
    card = cards.latent_card(one, 3)
    assert all(cell["src"] is None and cell["map"] for cells in card["rows"].values() for cell in cells)


def test_a_line_names_a_trait_that_exceeds_a_constant_score_alone():
    row = {"frequency": 0.01, "class": "wing", "trait": "spots", "trait_ap": 0.5, "trait_low": 0.4, "trait_gain": 0.05}
    assert cards.line(row) == "wing; 1.0 % of tokens"
    assert cards.line(row | {"trait_gain": 0.2, "name": "eye"}) == "eye; wing; spots; 1.0 % of tokens"


def test_codes_of_any_dictionary_are_prepared_once_and_names_are_added(outputs, tmp_path):
    import shutil

    from saev.explore.opening import open_dictionary, prepare, stored

    folder = shutil.copytree(outputs.root / "train" / "run" / "saes" / "k=2", tmp_path / "saes" / "k=2")
    session = dataclasses.replace(outputs.session(), codes=tmp_path / "codes")
    assert open_dictionary(str(folder), session) is None
    codes = prepare(str(folder), session)
    assert isinstance(codes, CodeStore) and len(codes.images) == 40
    found = stored(str(folder), tmp_path / "codes")
    assert found is not None and found.root == codes.root == prepare(str(folder), session).root
    one = open_dictionary(str(folder), session)
    assert one is not None and "name" not in one.warm().latents.columns
    one.annotate(3, "eye spot", confidence=0.5)
    assert one.latents["name"][3] == "eye spot"
    with pytest.raises(ValueError, match="latent"):
        one.annotate(400, "none")
