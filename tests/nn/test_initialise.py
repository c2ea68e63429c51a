"""Starts: centres, the atoms of each method, what they ask of the sample, and that they follow from it and a seed."""

import logging

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn.functional import normalize

from saev.nn import Archetypal, AuxK, BatchTopK, Member, Normaliser, Plain, ReLU, SparseAutoencoder, TopK
from saev.nn.centroids import _refilled, kmeans
from saev.nn.initialise import initialise
from saev.nn.median import geometric_median
from saev.nn.settings import Init
from saev.settings import choices

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(24, 12)) * 3
Z = torch.from_numpy(CENTRES[RNG.integers(24, size=2000)] + 0.05 * RNG.normal(size=(2000, 12)) + 0.5).float()


def start(method, seed=0, d_sae=24, sample=Z, sparsifier=None, **more):
    sae = SparseAutoencoder(12, d_sae, sparsifier or TopK(3))
    initialise(sae, sample, method, seed, **more)
    return sae


def test_b_dec_is_the_median_or_the_mean():
    spoilt = Z.clone()
    spoilt[:20] += 1000
    assert torch.equal(start("data", sample=spoilt).b_dec.detach(), geometric_median(spoilt))
    assert torch.equal(start("data", sample=spoilt, b_dec="mean").b_dec.detach(), spoilt.mean(0))


@pytest.mark.parametrize("method", choices(Init))
def test_atoms_are_unit_rows_and_the_encoder_their_transpose(method):
    sae = start(method)
    torch.testing.assert_close(sae.w_dec.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(normalize(sae.w_enc, dim=0), sae.w_dec.T)
    assert sae.archetypes is None and not sae.b_enc.any()


@pytest.mark.parametrize("method", choices(Init))
def test_the_same_seed_is_the_same_start_whatever_the_global_one(method):
    torch.manual_seed(1)
    one = start(method, seed=5)
    torch.manual_seed(2)
    sample = Z.clone()  # another tensor: nothing remembered from before
    assert torch.equal(start(method, seed=5, sample=sample).w_dec, one.w_dec)
    assert not torch.equal(start(method, seed=6).w_dec, one.w_dec)


def test_kmeans_finds_the_clusters_that_are_there():
    found = start("kmeans").w_dec.detach()
    truth = normalize(torch.from_numpy(CENTRES).float() + 0.5 - start("kmeans").b_dec.detach(), dim=1)
    assert float((found @ truth.T).amax(1).quantile(0.25)) > 0.999  # Lloyd's method may join two and split another
    x = RNG.normal(size=(1500, 6)).astype(np.float32)
    ours = kmeans(torch.from_numpy(x), 20, seed=0).numpy()
    distance = np.square(x[:, None] - ours).sum(2).min(1).sum()
    theirs = KMeans(20, init="random", n_init=1, max_iter=10, random_state=0).fit(x).inertia_
    assert distance < 1.05 * theirs


def test_every_centroid_has_points():
    x = np.repeat(RNG.normal(size=(30, 4)), 5, axis=0).astype(np.float32)  # 30 different points
    found = kmeans(torch.from_numpy(x), 30, seed=0).numpy()
    assert len(np.unique(found.round(3), axis=0)) >= 28


def test_centroids_without_points_become_the_farthest_points():
    x = np.array([[0.0], [1.0], [9.0], [5.0]], dtype=np.float32)
    centroids = np.array([[0.5], [77.0], [7.0], [88.0]], dtype=np.float32)
    distance, nearest = np.array([0.25, 0.25, 4.0, 4.1]), np.array([0, 0, 2, 2])
    np.testing.assert_array_equal(_refilled(centroids, x, distance, nearest), [[0.5], [5.0], [7.0], [9.0]])


def test_too_few_tokens_for_kmeans(caplog):
    with pytest.raises(ValueError, match=r"24 centroids of 20 tokens; lower d_sae .* init=data"):
        start("kmeans", sample=Z[:20])
    with caplog.at_level(logging.WARNING):
        start("kmeans", sample=Z[:500])
    assert "500 tokens for 24 centroids, 20.8 each; at least 39" in caplog.text
    caplog.clear()
    start("kmeans", sample=Z[: 39 * 24].clone())
    assert not caplog.records


def test_archetypal_atoms_are_near_the_hull_of_the_centroids():
    sae = start("archetypal", d_sae=40, decoder=Archetypal(points=10))
    a = sae.archetypes
    assert a is not None and a.points.shape == (10, 12) and a.mixing.shape == (40, 10)
    torch.testing.assert_close(a.mixing.sum(1), torch.ones(40))
    assert bool((a.mixing >= 0).all()) and float(a.residual.detach().norm(dim=1).max()) < 0.2 + 1e-6
    torch.testing.assert_close(a.points, normalize(kmeans(Z, 10, 0) - sae.b_dec, dim=1))
    torch.testing.assert_close(sae.w_dec, normalize(a.mixing @ a.points + a.residual, dim=1))
    cosine = sae.w_dec @ sae.w_dec.T - torch.eye(40)
    assert float(cosine.detach().max()) < 0.999  # none twice, although four share each centroid


def test_the_number_of_tokens():
    tokens = lambda init, d_sae, **more: Member(TopK(3), d_sae=d_sae, init=init, **more).sample_tokens(8)  # noqa: E731
    assert tokens("data", 2048) == tokens("random", 100_000) == tokens("kmeans", 64) == 16384
    assert tokens("data", 10_000) == 80_000  # two seeds draw different ones
    assert tokens("kmeans", 4096) >= 39 * 4096
    assert 39 * 1024 <= tokens("archetypal", 4096, decoder=Archetypal(points=1024)) < 39 * 4096
    spec = Member(TopK(3), "a", Plain(), AuxK(), 1e-3, expansion=8, init="kmeans")
    spec.check_tokens(128, 1024)
    with pytest.raises(ValueError, match=r"init=kmeans needs 1024 centroids, there are 1023 training tokens"):
        spec.check_tokens(128, 1023)
    assert spec.sample_tokens(128) == tokens("kmeans", 1024)


@pytest.mark.parametrize("method", choices(Init))
@pytest.mark.parametrize("sparsifier", [lambda: ReLU(0.0), lambda: TopK(3), lambda: BatchTopK(3)])
def test_every_start_is_better_than_the_mean(method, sparsifier):
    sae = start(method, d_sae=48, sparsifier=sparsifier())
    with torch.no_grad():
        h = sae.pre_activations(Z)
        kept = sae.sparsifier.select(h).dense(48) if hasattr(sae.sparsifier, "select") else sae.sparsifier(h)
        error = (Z - kept @ sae.w_dec - sae.b_dec).square().sum() / (Z - Z.mean(0)).square().sum()
    assert float(error) < 0.95


def test_members_share_the_search_but_not_its_result(monkeypatch):
    import saev.nn.initialise as module

    calls = []
    monkeypatch.setattr(module, "kmeans", lambda *args: calls.append(args[1:]) or kmeans(*args))
    sample = Z.clone()
    build = lambda seed: Member(TopK(3), "a", Plain(), AuxK(), 1e-3, d_sae=24, seed=seed, init="kmeans").build(  # noqa: E731
        Normaliser(torch.zeros(12), torch.ones(())), sample
    )
    one, two, three = build(0), build(0), build(1)
    assert calls == [(24, 0), (24, 1)]
    assert torch.equal(one.sae.w_dec, two.sae.w_dec) and one.sae.w_dec is not two.sae.w_dec
    assert not torch.equal(one.sae.w_dec, three.sae.w_dec)
