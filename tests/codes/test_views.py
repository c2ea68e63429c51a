"""The codes by latent and by image: exactly the codes by token, transposed and pooled, whatever the pieces and the interruptions."""

import numpy as np
import polars as pl
import pytest
from codes.dictionaries import OneHot, Signed, sae
from codes.test_encoding import encoded, selection, writer
from codes.test_encoding import files as every_file
from recordings import record

from saev.codes import CodeStore, EncodeSettings, by_image, by_latent
from saev.codes.arrays import ranges
from saev.codes.encoding import encode_shards


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Several shards; image 3 has no tokens."""
    return record(tmp_path_factory.mktemp("views") / "data", skipped=(3,), labels=True, examples_per_shard=7)


def files(root):
    """Every file but the manifest, which names the dictionary's folder."""
    return {name: data for name, data in every_file(root).items() if name != "manifest.json"}


MADE = {"topk": lambda: sae("topk"), "relu": lambda: sae("relu"), "signed": Signed, "one-hot": OneHot}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kind", MADE)
def test_the_views_are_the_codes_transposed_and_pooled(kind, dtype, labelled, tmp_path):
    chosen = selection(labelled, tokens="all" if kind == "topk" else "patches", ignore_labels=(1,))
    codes = encoded(tmp_path, chosen, MADE[kind](), EncodeSettings(dtype=dtype, latent_topk="all"), batch_size=100)
    table = codes.rows().dense()
    for latent in range(codes.n_latents):
        rows, values = codes.latent(latent)
        np.testing.assert_array_equal(rows, np.flatnonzero(table[:, latent]))
        np.testing.assert_array_equal(values, table[rows, latent])
    assert codes.images["example"].to_list() == sorted({*codes.spans.example.tolist()})
    for number, example in enumerate(codes.images["example"]):
        of_image = table[slice(*codes.rows_of(example))]
        np.testing.assert_array_equal(codes.image(example).dense(), of_image)
        expected = {
            "max": of_image.max(0), "mean": of_image.mean(0, dtype=np.float64), "active": (of_image != 0).sum(0),
            "top3": np.sort(of_image, axis=0)[::-1][:3].mean(0, dtype=np.float64),
        }  # fmt: skip
        fires = (of_image != 0).any(0)
        for pool, values in expected.items():
            pooled = codes.pooled(pool)[number].toarray()[0]
            np.testing.assert_allclose(pooled, np.where(fires, values, 0), rtol=1e-6, atol=1e-9)
    assert codes.verify() == []


def test_pieces_and_budgets_change_nothing(labelled, tmp_path, monkeypatch):
    chosen = selection(labelled)
    whole = encoded(tmp_path / "whole", chosen, sae("relu"))
    monkeypatch.setattr(by_image, "PIECE", 40)
    monkeypatch.setattr(by_latent.write_by_latent, "__defaults__", (200,))
    pieces = encoded(tmp_path / "pieces", chosen, sae("relu"))
    assert files(whole.root) == files(pieces.root)
    for budget in (1, 100, 1 << 20):
        spans = list(ranges(np.array([0, 3, 3, 50, 60]), budget))
        assert [low for low, _ in spans[1:]] == [high for _, high in spans[:-1]] and spans[-1][1] == 4


def test_only_the_requested_views_are_kept(labelled, tmp_path):
    chosen = selection(labelled)
    target = writer(tmp_path, chosen, sae("relu"))
    target.views = ("image",)
    encode_shards({"it": sae("relu")}, {"it": target}, chosen)
    assert target.finish()
    codes = CodeStore(target.root)
    assert codes.pooled("max").shape == (len(codes.images), 96) and codes.verify() == []
    for call in (lambda: codes.rows(), lambda: codes.latent(0)):
        with pytest.raises(ValueError, match="without views="):
            call()
    assert not list(target.root.glob("*.values.npy")) and not (target.root / by_latent.ROWS).exists()


def test_a_map_is_a_latent_on_the_grid_of_an_image(labelled, tmp_path):
    chosen = selection(labelled, tokens="all", ignore_labels=(1,))
    codes = encoded(tmp_path, chosen, sae("relu"))
    example = int(codes.images["example"][2])
    start, stop = codes.rows_of(example)
    latent = int(codes.rows(start, stop).latents[0])  # one that fires on it
    heat = codes.map(latent, example)
    row = codes.images.row(by_predicate=pl.col("example") == example, named=True)
    assert heat.shape == (row["grid_h"], row["grid_w"])
    dense, token = codes.rows(start, stop).dense()[:, latent], codes.tokens(start, stop)[1]
    flat = np.full(heat.size, np.nan)
    for value, position in zip(dense, token, strict=True):
        if position >= 1:  # after the cls token
            flat[position - 1] = value
    np.testing.assert_array_equal(heat.ravel(), flat)
    assert np.isnan(flat).any() and (flat > 0).any()


@pytest.mark.parametrize("call", [lambda c: c.latent(96), lambda c: c.pooled("sum"), lambda c: c.latent(-1)])
def test_what_is_not_there_is_named(call, labelled, tmp_path):
    codes = encoded(tmp_path, selection(labelled), sae("relu"))
    with pytest.raises(ValueError, match=r"does not exist|choose max, mean, top3, active"):
        call(codes)
