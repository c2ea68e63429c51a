"""The pooled dictionary: groups against a loop, codes against those of the members, and what cannot be pooled."""

import numpy as np
import polars as pl
import pytest
import torch

from saev.checkpoint import load, read_config, save_dictionary, start_of
from saev.evaluation.evaluating import evaluate
from saev.evaluation.settings import EvaluateSettings
from saev.evaluation.stable_dictionary import joined, stable_latents
from saev.nn import Normaliser, SparseAutoencoder
from saev.nn.sparsifiers import BatchTopK, Gated, JumpReLU, ReLU, TopK

N, D = 12, 16
SETTINGS = [
    TopK(3), TopK(3, threshold=True), BatchTopK(3), ReLU(1e-3), ReLU(1e-3, l0_target=11, atom_norm=True), Gated(1e-3),
    JumpReLU(l0_target=11),
]  # fmt: skip


def autoencoder(settings, seed: int, n: int = N) -> SparseAutoencoder:
    """All parameters random, the normaliser that of all seeds."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(99)
    normaliser = Normaliser(torch.randn(D, generator=shared), torch.rand(D, generator=shared) + 0.5)
    sae = SparseAutoencoder(D, n, settings, normaliser)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        for name, buffer in sae.sparsifier.named_buffers():
            if name in ("theta", "unit", "scale"):
                buffer.fill_(0.1 + 0.1 * seed)
    sae.project()
    return sae.eval()


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: one.name)
def test_latents_keep_their_codes(settings, tmp_path):
    members = [autoencoder(settings, seed) for seed in range(3)]
    rows = [torch.tensor([0, 5]), torch.tensor([], dtype=torch.int64), torch.tensor([11, 3, 4])]
    sae = load(save_dictionary(joined(members, rows), tmp_path / "stable"))
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(7)) * 2
    with torch.no_grad():
        expected = torch.cat([one.encode(x)[:, row] for one, row in zip(members, rows, strict=True)], 1)
        finals = [one.finalised() for one in members]
        h = torch.cat(
            [one.pre_activations(one.normaliser(x))[:, row] for one, row in zip(finals, rows, strict=True)], 1
        )
        codes = sae.encode(x)
    assert isinstance(sae, SparseAutoencoder) and sae.n_latents == 5
    torch.testing.assert_close(sae.pre_activations(sae.normaliser(x)), h, atol=1e-5, rtol=1e-5)
    if settings == TopK(3):  # of these latents alone
        expected = torch.where(h >= h.topk(3, dim=1).values[:, -1:], h.relu(), 0)
    torch.testing.assert_close(codes, expected, atol=1e-5, rtol=1e-5)
    assert (expected != 0).any() and (expected == 0).any()
    atoms = torch.cat([one.atoms[row] for one, row in zip(members, rows, strict=True)])
    torch.testing.assert_close(sae.atoms, atoms)


def partner_table(*rows) -> pl.DataFrame:
    schema = {"a": pl.String, "latent": pl.Int64, "b": pl.String, "partner": pl.Int64, "cosine": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_groups_have_one_representative():
    """Latent 0 of x, 1 of y and 2 of z are partners; 3 of x and 3 of y are, and nothing in z; 4 is alone."""
    table = partner_table(
        ("x", 0, "y", 1, 0.8), ("x", 0, "z", 2, 0.9), ("y", 1, "z", 2, 0.75), ("x", 3, "y", 3, 0.9), ("w", 0, "x", 4, 1.0)
    )  # fmt: skip
    for fraction, expected in (
        (1.0, [(0, 0, 2)]),
        (0.5, [(0, 0, 2), (0, 3, 1)]),
        (0.6, [(0, 0, 2)]),
    ):
        chosen = stable_latents(table, ["x", "y", "z"], [5, 5, 5], fraction)
        assert [*zip(*(part.tolist() for part in chosen), strict=True)] == expected
    everything = stable_latents(table, ["x", "y", "z"], [5, 5, 5], 0.0)
    assert len(everything.latent) == 15 - 3, "each latent, or the group's first"
    assert len(stable_latents(table.clear(), ["x", "y"], [5, 5], 0.5).latent) == 0


def test_what_cannot_be_pooled():
    one, rows = autoencoder(TopK(3), 0), [torch.arange(2)] * 2
    other = autoencoder(TopK(3), 1)
    other.normaliser.scale.mul_(2)
    with pytest.raises(ValueError, match="normalise activations differently"):
        joined([one, other], rows)
    with pytest.raises(ValueError, match="different sparsifiers"):
        joined([one, autoencoder(TopK(2), 1)], rows)
    with pytest.raises(ValueError, match="no latent is stable"):
        joined([one, one], [torch.arange(0)] * 2)


def test_evaluate_saves_the_stable_latents_of_each_series(tiny, tmp_path):
    about = {"dataset": str(tiny), "layer": 1, "token_roles": "patches"}
    for seed in range(3):
        sae = autoencoder(BatchTopK(3), seed)
        with torch.no_grad():  # the first five are shared, in another order
            sae.w_dec[torch.arange(5) + seed] = autoencoder(BatchTopK(3), 0).w_dec[:5]
        settings = {"sae": "batchtopk", "k": 3, "seed": seed}
        start = autoencoder(BatchTopK(3), 10 + seed).w_dec
        save_dictionary(sae, tmp_path / f"k=3,seed={seed}", start=start, hyperparameters=settings, provenance=about)
    paths = [tmp_path / f"k=3,seed={seed}" for seed in range(3)]
    settings = EvaluateSettings(device="cpu", stability=True, stability_pooled=1.0, gap=False)
    evaluation = evaluate(paths, tiny, settings, directory=tmp_path / "out")
    folder = tmp_path / "out" / "saes" / "k=3,stable"
    assert folder in evaluation.files
    table = pl.read_parquet(folder / "stable.parquet")
    assert len(table) == 5 and table["partners"].unique().to_list() == [2]
    assert set(np.array([int(name[-1]) for name in table["member"]])) <= {0, 1, 2}
    atoms = torch.cat([load(tmp_path / m).atoms[i : i + 1] for m, i in table.select("member", "of").iter_rows()])
    torch.testing.assert_close(load(folder).atoms, atoms)
    starts = [start_of(tmp_path / m)[i] for m, i in table.select("member", "of").iter_rows()]
    torch.testing.assert_close(start_of(folder), torch.stack(starts))
    assert evaluation.stability.latents["start_cosine"].null_count() == 0
    scale = load(paths[0]).normaliser.scale
    starts = [start_of(path) * scale for path in paths]
    cosines = torch.cosine_similarity(load(paths[0]).atoms * scale, starts[0], dim=1)
    np.testing.assert_allclose(evaluation.stability.latents["start_cosine"][:N], cosines, atol=1e-5)
    agree = torch.nn.functional.normalize(starts[0]) @ torch.nn.functional.normalize(starts[1]).T >= 0.7
    assert evaluation.stability.pairs["start_a"][0] == agree.any(1).double().mean().item()
    assert (
        read_config(folder)["hyperparameters"] | {"pooled_seeds": 3, "d_sae": 5, "pooled_fraction": 1.0}
        == (read_config(folder)["hyperparameters"])
    )
    again = evaluate(tmp_path / "out", tiny, EvaluateSettings(device="cpu"))
    assert again.results["member"].to_list() == ["k=3,stable"] and again.results["d_sae"].to_list() == [5]
    with pytest.raises(ValueError, match="differ in their seed alone"):
        evaluate([*paths[:1], folder], tiny, settings, directory=tmp_path / "none")
    with pytest.raises(ValueError, match="directory="):
        evaluate(paths, tiny, settings)
    with pytest.raises(ValueError, match="without stability=true"):
        EvaluateSettings(stability_pooled=0.5)
