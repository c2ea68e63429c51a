"""The stability of latents against whole matrices, planted copies, shared starts and drawn tokens."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity
from vits.micro_recordings import recording

from saev.checkpoint import save_dictionary
from saev.evaluation.compared import common_images, compared
from saev.evaluation.settings import EvaluateSettings
from saev.evaluation.stability import FLAGS, stability
from saev.evaluation.token_draws import compare_draws, draw, drawn_dictionary
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.saved import find_dictionaries, select_tokens
from saev.shards import ActivationStore

CPU = EvaluateSettings(device="cpu", examples="all")


def autoencoder(atoms: np.ndarray, k: int = 1) -> SparseAutoencoder:
    n, d_model = atoms.shape
    sae = SparseAutoencoder(d_model, n, TopK(k), Normaliser(torch.zeros(d_model), torch.tensor(1.0)))
    with torch.no_grad():
        sae.w_dec.copy_(torch.from_numpy(atoms))
        sae.w_enc.copy_(torch.from_numpy(atoms.T))
    return sae.eval()


def random_atoms(n: int, d_model: int = 16, seed: int = 0) -> np.ndarray:
    atoms = np.random.default_rng(seed).normal(size=(n, d_model)).astype(np.float32)
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def test_it_is_the_fraction_of_other_dictionaries_with_a_similar_atom():
    rng = np.random.default_rng(0)
    atoms = {name: rng.normal(size=(n, 6)).astype(np.float32) for name, n in (("a", 30), ("b", 20), ("c", 25))}
    atoms["b"][:10] = 2 * atoms["a"][5:15] + 0.1 * rng.normal(size=(10, 6))  # in another order and scale
    atoms["other width"] = rng.normal(size=(8, 5)).astype(np.float32)
    result = stability({name: autoencoder(rows) for name, rows in atoms.items()}, settings=CPU)
    table = result.latents
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in atoms.items()}
    for name in "abc":
        rows = table.filter(member=name)
        expected = np.mean([(unit[name] @ unit[other].T).max(1) >= 0.7 for other in "abc" if other != name], 0)
        np.testing.assert_array_equal(rows["latent"], np.arange(len(unit[name])))
        np.testing.assert_allclose(rows["stability_cosine"], expected)
        assert rows["others_cosine"].unique().to_list() == [2] and rows["sha256"].null_count() == len(rows)
        assert (rows["stability_cosine_one_to_one"] <= rows["stability_cosine"]).all()
        assert rows["stability_correlation"].null_count() == len(rows), "no recording"
        mean = result.dictionaries.filter(member=name)["stability_cosine"].item()
        assert mean == pytest.approx(expected.mean())
    assert table.filter(member="a")["stability_cosine"][5:15].min() >= 0.5
    alone = table.filter(member="other width")
    assert alone["others_cosine"].unique().to_list() == [0] and alone["stability_cosine"].null_count() == 8
    pair = result.pairs.row(0, named=True)
    cos = unit["a"] @ unit["b"].T
    assert pair["cosine_a"] == pytest.approx((cos.max(1) >= 0.7).mean())
    assert pair["cosine_b"] == pytest.approx((cos.max(0) >= 0.7).mean())
    assert (pair["mean_max_a"], pair["mean_max_b"]) == pytest.approx((cos.max(1).mean(), cos.max(0).mean()))


def test_the_null_has_the_others_with_permuted_dimensions():
    """Copies are stable; a permutation of the dimensions of unit vectors along axes moves each to another axis."""
    table = stability({name: autoencoder(np.eye(7, dtype=np.float32)[:4]) for name in "ab"}, settings=CPU).latents
    assert (table["stability_cosine"] == 1).all() and (table["stability_cosine_one_to_one"] == 1).all()
    order = np.random.default_rng(0).permutation(7)
    expected = (np.eye(7)[:4] @ np.eye(7)[:4][:, order].T).max(1)
    np.testing.assert_array_equal(table.filter(pl.col("member") == "a")["stability_cosine_null"], expected)


def test_a_permuted_copy_is_stable_in_every_way_and_duplicates_only_one_to_many(tiny):
    atoms = random_atoms(20)
    order = np.random.default_rng(1).permutation(20)
    doubled = np.concatenate([atoms[:10], atoms[:10]])
    members = {
        "a": autoencoder(atoms, 4), "copy": autoencoder(atoms[order], 4), "half, doubled": autoencoder(doubled, 4),
    }  # fmt: skip
    result = stability(members, tiny, CPU, layer=1)
    pair = result.pairs.row(0, named=True)
    fires = (pooled_by_loop(members["a"], tiny).max(0) > 0).mean()
    assert pair["cosine_one_to_one"] == pair["cosine_a"] == pair["cosine_b"] == pair["matched"] == pytest.approx(1)
    assert pair["correlation_one_to_one"] == pair["correlation_a"] == pytest.approx(fires)
    assert pair["jaccard_one_to_one"] == pair["jaccard_b"] == pytest.approx(fires)
    half = result.pairs.row(1, named=True)
    assert half["b"] == "half, doubled" and half["cosine_b"] == 1 and half["cosine_one_to_one"] == 0.5
    assert 0 <= half["subspace_8"] <= 1 and half["subspace_8_null"] == 0.5
    assert "subspace_32" not in half, "beyond d_model"


def pooled_by_loop(sae, tiny) -> np.ndarray:
    store = ActivationStore(tiny)
    images = np.flatnonzero(store.tokens_per_image(1))
    with torch.no_grad():
        return np.stack(
            [
                sae.encode(torch.from_numpy(store.read(1, int(e), "patches").copy()).float()).amax(0).numpy()
                for e in images
            ]
        )


def test_correlation_and_jaccard_are_those_of_a_loop(tiny):
    """Of dictionaries of two widths; silent latents have partners in neither way."""
    members = {"a": autoencoder(random_atoms(24), 2), "b": autoencoder(random_atoms(30, seed=3), 3)}
    members["a"].b_enc.data[3] = -1e6
    result = stability(members, tiny, CPU, layer=1)
    codes = {name: pooled_by_loop(sae, tiny) for name, sae in members.items()}
    correlation, jaccard = np.zeros((24, 30)), np.zeros((24, 30))
    tops = {
        name: [{int(e) for e in np.argsort(-x, kind="stable")[:20] if x[e] > 0} for x in values.T]
        for name, values in codes.items()
    }
    for i in range(24):
        for j in range(30):
            x, y = codes["a"][:, i], codes["b"][:, j]
            correlation[i, j] = np.corrcoef(x, y)[0, 1] if np.ptp(x) and np.ptp(y) else 0
            jaccard[i, j] = len(tops["a"][i] & tops["b"][j]) / max(len(tops["a"][i] | tops["b"][j]), 1)
    for name, matrix in (("correlation", correlation), ("jaccard", jaccard)):
        rows = {member: result.latents.filter(member=member)[f"stability_{name}"].to_numpy() for member in "ab"}
        np.testing.assert_array_equal(rows["a"], (matrix.max(1) >= 0.5).astype(float))
        np.testing.assert_array_equal(rows["b"], (matrix.max(0) >= 0.5).astype(float))
        assert rows["a"][3] == 0
    assert result.pairs["n_images"].item() == len(codes["a"])
    assert result.latents["others_correlation"].unique().to_list() == [1]


def test_a_copied_start_is_exposed_by_its_column():
    """Ends that are starts with noise agree as the starts do; ends that are learned from different starts agree alone."""
    rng = np.random.default_rng(7)

    def noisy(atoms, scale=0.05):
        return (atoms + scale * rng.normal(size=atoms.shape)).astype(np.float32)

    start, learned = random_atoms(30, 64), random_atoms(30, 64, seed=1)
    shared = {name: autoencoder(noisy(start)) for name in "ab"}
    result = stability(shared, settings=CPU, starts=dict.fromkeys("ab", torch.from_numpy(start)))
    assert result.latents["stability_cosine"].mean() == 1 and result.latents["stability_start"].mean() == 1
    assert result.latents["start_cosine"].min() > 0.8 and result.pairs["start_one_to_one"].item() == 1
    trained = {name: autoencoder(noisy(learned)) for name in "ab"}
    starts = {name: torch.from_numpy(random_atoms(30, 64, seed=i + 5)) for i, name in enumerate("ab")}
    result = stability(trained, settings=CPU, starts=starts)
    assert result.latents["stability_cosine"].mean() == 1 and result.latents["stability_start"].mean() == 0
    assert result.latents["start_cosine"].abs().mean() < 0.2 and result.pairs["start_a"].item() == 0
    without = stability(trained, settings=CPU, starts={"a": starts["a"]})
    assert "start_a" not in without.pairs.columns and without.latents["stability_start"].null_count() == 60


def test_stability_among_seeds_leaves_out_other_settings(tmp_path, caplog):
    atoms = random_atoms(8)
    for seed, k in ((0, 1), (1, 1), (0, 2)):
        other = atoms if k == 1 else random_atoms(8, seed=9)
        save_dictionary(autoencoder(other, k), tmp_path / f"k={k},seed={seed}", hyperparameters={"k": k, "seed": seed})
    paths = [*tmp_path.iterdir()]
    settings = EvaluateSettings(device="cpu", stability_among="seeds", stability_images=0)
    result = stability(paths, settings=settings)
    means = dict(result.dictionaries.select("member", "stability_cosine").iter_rows())
    assert means == {"k=1,seed=0": 1, "k=1,seed=1": 1, "k=2,seed=0": None}
    assert result.pairs["seeds"].to_list() == [True], "no other pair is compared"
    alone = stability(
        [path for path in paths if path.name != "k=1,seed=1"], settings=settings, directory=tmp_path / "out"
    )
    assert "nothing is compared" in caplog.text and len(alone.pairs) == 0 and alone.latents["others_cosine"].sum() == 0
    assert pl.read_parquet(tmp_path / "out" / "stability.parquet").columns == ["a", "b", "seeds"]
    everything = stability(paths, settings=EvaluateSettings(device="cpu", stability_images=0))
    assert everything.pairs["seeds"].sum() == 1 and len(everything.pairs) == 3
    assert everything.latents.filter(pl.col("member") != "k=2,seed=0")["stability_cosine"].min() >= 0.5


def test_a_diverged_dictionary_has_no_partners(tiny):
    members = {"a": autoencoder(random_atoms(8)), "b": autoencoder(random_atoms(8) * np.float32("nan"))}
    result = stability(members, tiny, CPU, layer=1)
    assert result.pairs["cosine_a"].item() == result.pairs["cosine_b"].item() == 0
    assert result.latents["stability_correlation"].null_count() == 16


def test_other_recordings_of_the_same_images_are_matched_by_path(tmp_path):
    """One of some of the images, in another order and with another that the first has not."""
    rng = np.random.default_rng(0)
    photos = {name: Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for name in "abcdef"}
    roots = {}
    for folder, named in (("one", "abcdef"), ("two", "Abdf")):
        (tmp_path / folder).mkdir()
        for name in named:
            photos[name.lower()].save(tmp_path / folder / f"{name}.png")
        roots[folder] = recording(tmp_path / folder, tmp_path / "activations", layers=[1]).run()
    d_model = ActivationStore(roots["one"]).d_model
    for name in roots:
        about = {"dataset": roots[name].name, "layer": 1, "token_roles": "patches"}
        save_dictionary(autoencoder(random_atoms(12, d_model), 2), tmp_path / "saes" / name, provenance=about)
    saved = find_dictionaries([tmp_path / "saes" / name for name in roots])
    one, two = (select_tokens(x, None, tmp_path / "activations", examples="all") for x in saved)
    rows = common_images(one, two)
    for store, at, chosen in ((one.store, one.images, rows[0]), (two.store, two.images, rows[1])):
        assert [Path(store.examples["path"][int(i)]).stem for i in at[chosen]] == ["b", "d", "f"]
    result = stability([x.path for x in saved], settings=CPU, activations=tmp_path / "activations")
    pair = result.pairs.row(0, named=True)
    assert pair["n_images"] == 3 and not pair["seeds"]
    alive = (pair["correlation_a"], pair["correlation_b"], pair["jaccard_a"])
    assert min(alive) == max(alive) > 0, "the same dictionary on the same photos"


def test_two_draws_of_tokens(tiny):
    """Two draws have no token in common, and are compared as dictionaries of theirs, less the mean, would be."""
    store = ActivationStore(tiny)
    whole = select_tokens(find_dictionaries({"a": autoencoder(random_atoms(8))})[0], store, layer=1, examples="all")
    everything = np.concatenate([store.read(1, int(e), "patches") for e in np.flatnonzero(store.tokens_per_image(1))])
    np.testing.assert_array_equal(draw(whole, len(everything), 0).numpy(), everything.astype(np.float32))
    few = draw(whole, 50, 1).numpy()
    assert few.shape == (50, store.d_model) and all((everything == row).all(1).any() for row in few)
    assert compare_draws(whole, len(everything) // 2 + 1, 512, "cpu") == {}
    numbers = compare_draws(whole, 20, 512, "cpu")
    mean = store.moments(1, "patches").mean
    tokens = draw(whole, 40, 0)[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    x, y = (tokens[i::2].numpy() - mean for i in (0, 1))
    cos = cosine_similarity(x, y)
    assert numbers["tokens_cosine"] == ((cos.max(1) >= 0.7).mean() + (cos.max(0) >= 0.7).mean()) / 2
    members = {str(i): drawn_dictionary(whole, tokens[i::2]) for i in (0, 1)}
    pair = stability(members, store, CPU, layer=1).pairs.row(0, named=True)
    for name in ("cosine", "correlation", "jaccard"):
        assert numbers[f"tokens_{name}_one_to_one"] == pair[f"{name}_one_to_one"]
        assert numbers[f"tokens_{name}"] == (pair[f"{name}_a"] + pair[f"{name}_b"]) / 2
    table = stability({"a": autoencoder(random_atoms(20)), "b": autoencoder(random_atoms(24))}, tiny, CPU, layer=1)
    assert table.dictionaries["tokens_jaccard"][0] == numbers["tokens_jaccard"]


def test_columns_and_refusals():
    table = stability({name: autoencoder(random_atoms(4)) for name in "ab"}, settings=CPU).latents
    assert {f"stability_{name}" for name in FLAGS} <= {*table.columns}
    with pytest.raises(ValueError, match="at least two dictionaries"):
        stability({"a": autoencoder(random_atoms(4))}, settings=CPU)
    with pytest.raises(ValueError, match="of one d_model or over the same images"):
        stability({"a": autoencoder(random_atoms(4)), "b": autoencoder(random_atoms(4, 5))}, settings=CPU)


def test_codes_are_the_largest_on_each_image(tiny):
    members = {"a": autoencoder(random_atoms(12), 3)}
    saved = find_dictionaries(members)
    selection = select_tokens(saved[0], tiny, layer=1, examples="all")
    (one,) = compared(saved, members, {"a": selection}, {})
    np.testing.assert_allclose(one.codes.toarray(), pooled_by_loop(members["a"], tiny), atol=1e-5)
    energy = (one.codes.toarray() ** 2).sum(0)
    assert (np.diff(energy[one.strongest().numpy()]) <= 1e-4).all()
