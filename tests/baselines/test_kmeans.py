"""k-means: searches against float64 brute force, passes against scikit-learn, merging, resuming, empties, ties and codes."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference

from saev.baselines import KMeans
from saev.baselines import kmeans as fitting
from saev.baselines import nearest as searching
from saev.baselines.kmeans import KMeansDictionary
from saev.baselines.lloyd import Clusters
from saev.baselines.nearest import distances, nearest
from saev.nn import Normaliser

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(12, 8)) * 2
Z = torch.from_numpy(CENTRES[RNG.integers(12, size=3000)] + 0.6 * RNG.normal(size=(3000, 8))).float()
TOKEN = torch.arange(len(Z))
NORMALISER = Normaliser(torch.arange(8.0), torch.tensor(2.0))


def fitter(n_latents=12, z=Z, **settings):
    made = KMeans(n_latents, **{"tol": 0, **settings}).build()
    made.start(NORMALISER, z[: made.sample_tokens], len(z))
    return made


def feed(made, z=Z, size=700):
    for i in range(0, len(z), size):
        made.update(z[i : i + size], TOKEN[: len(z)][i : i + size])


def run(made, z=Z, size=700):
    numbers = []
    while made.done < made.n_passes:
        feed(made, z, size)
        numbers.append(dict(made.finish_pass()))
    return numbers


def brute(z, centroids):
    return ((z.double()[:, None] - centroids.double()) ** 2).sum(2)


# --- the search


@pytest.mark.parametrize("offset", [0.0, 100.0, 3000.0])
@pytest.mark.parametrize("block", [64, 1 << 22])
def test_the_nearest_is_that_of_float64_however_far_off_the_origin(offset, block, monkeypatch):
    """At an offset of 3000 the product of matrices in float32 alone is wrong on most tokens."""
    monkeypatch.setattr(searching, "CPU_BLOCK", block)
    z, centroids = Z[:400] + offset, Z[500:540] + offset
    index, squared = nearest(z, centroids)
    truth = brute(z, centroids)
    assert torch.equal(index, truth.argmin(1))
    torch.testing.assert_close(squared.double(), truth.amin(1), rtol=1e-5, atol=0)
    torch.testing.assert_close(distances(z, centroids).double(), truth.sqrt(), rtol=3e-3, atol=1e-3)


def test_the_first_of_equally_near_centroids_is_taken():
    centroids = torch.cat([Z[10:13], Z[10:13], torch.zeros(1, 8)])
    index, squared = nearest(Z[10:13], centroids)
    assert index.tolist() == [0, 1, 2] and not squared.any()
    assert nearest(torch.tensor([[1.0]]), torch.tensor([[2.0], [0.0]]))[0].tolist() == [0]
    assert nearest(torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0]]))[0].tolist() == [0]


def test_autocast_and_lower_precision_of_products_leave_the_search_as_it_is():
    expected, codes = nearest(Z, Z[:50]), KMeansDictionary(NORMALISER, Z[:50])
    with torch.autocast("cpu", torch.bfloat16):
        found, decoded = nearest(Z, Z[:50]), codes(NORMALISER.inverse(Z))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    torch.testing.assert_close(NORMALISER(decoded), Z[:50][expected[0]], rtol=0, atol=1e-5)


def test_no_token_and_one_centroid():
    index, squared = nearest(Z[:0], Z[:3])
    assert index.shape == squared.shape == (0,) and index.dtype == torch.int64
    assert not nearest(Z, Z[:1])[0].any()


# --- passes


def test_passes_are_those_of_overrelaxed_lloyd_in_numpy():
    made = fitter(passes=4)
    x, centroids = Z.double().numpy(), made.centroids.double().numpy()
    for numbers in run(made):
        squared = np.square(x[:, None] - centroids).sum(2)
        index = squared.argmin(1)
        population = np.bincount(index, minlength=12)
        assert numbers["inertia"] == pytest.approx(squared.min(1).mean(), rel=1e-6)
        assert numbers["largest"] == population.max() and numbers["smallest"] == population.min()
        assert numbers["utilisation"] == (population > 0).mean()
        means = np.stack([x[index == k].mean(0) for k in range(12)])
        centroids = means + 0.8 * (means - centroids)
    np.testing.assert_allclose(made.centroids.numpy(), centroids, atol=1e-5)
    np.testing.assert_allclose(made.dictionaries()[""].atoms.numpy(), means, atol=1e-5)
    assert made.populations.tolist() == population.tolist()


def test_inertia_falls_to_that_of_scikit_learn():
    made = fitter(60, passes=30, n_init=3)
    inertia = [numbers["inertia"] for numbers in run(made)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(inertia))
    reference = Reference(60, n_init=3, random_state=0).fit(Z.numpy()).inertia_ / len(Z)
    assert inertia[-1] <= 1.01 * reference


def test_passes_over_the_sample_come_before_those_over_the_stream(monkeypatch):
    monkeypatch.setattr(fitting, "FEW", 1500)
    monkeypatch.setattr(fitting, "ENOUGH", 25)
    first = [numbers["inertia"] for numbers in run(fitter(60, passes=8))]
    monkeypatch.setattr(fitting, "SAMPLE_PASSES", 0)
    without = [numbers["inertia"] for numbers in run(fitter(60, passes=8))]
    assert first[0] == pytest.approx(without[6], rel=1e-6)  # here the sample is the stream


def test_the_split_into_batches_does_not_matter():
    one, other = fitter(), fitter()
    feed(one, size=3000)
    feed(other, size=37)
    assert torch.equal(one.clusters.counts, other.clusters.counts)
    torch.testing.assert_close(one.clusters.sums, other.clusters.sums, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(one.clusters.inertia, other.clusters.inertia, rtol=1e-12, atol=0)


def test_two_halves_merged_are_the_whole():
    whole, one, other = fitter(), fitter(), fitter()
    feed(whole)
    feed(one, Z[:1100])
    feed(other, Z[1100:])
    one.merge(other)
    assert torch.equal(one.clusters.counts, whole.clusters.counts)
    torch.testing.assert_close(one.clusters.sums, whole.clusters.sums, rtol=1e-12, atol=1e-11)
    assert one.finish_pass()["inertia"] == pytest.approx(whole.finish_pass()["inertia"], rel=1e-12)
    torch.testing.assert_close(one.centroids, whole.centroids)


def test_a_pass_interrupted_in_its_middle_resumes(tmp_path):
    whole, first = fitter(passes=3), fitter(passes=3)
    feed(first)
    first.finish_pass()
    for made, rows in ((whole, slice(0, None)), (first, slice(0, 1400))):
        if made is whole:
            feed(made)
            made.finish_pass()
        for i in range(0, len(Z[rows]), 700):
            made.update(Z[rows][i : i + 700], TOKEN[i : i + 700])
    torch.save(first.state_dict(), tmp_path / "state")
    again = fitter(passes=3)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for i in range(1400, 3000, 700):
        again.update(Z[i : i + 700], TOKEN[i : i + 700])
    assert again.finish_pass() == whole.finish_pass() and again.done == 2
    assert run(again) == run(whole)
    assert torch.equal(again.centroids, whole.centroids) and torch.equal(again.means, whole.means)


def test_it_stops_when_little_is_gained():
    made = fitter(passes=50, tol=1e-3)
    numbers = run(made)
    assert len(numbers) == made.n_passes < 50
    centroids = made.centroids.clone()
    feed(made)
    assert made.finish_pass() == numbers[-1] and torch.equal(made.centroids, centroids)


# --- empty clusters


def test_an_empty_cluster_halves_the_one_of_largest_inertia():
    """Two clouds of tokens far apart from each other share a centroid; the third centroid has none."""
    z = torch.cat([Z[:200] * 0.1, Z[:200] * 0.1 + 50, Z[:200] * 0.1 - 300])
    centroids = torch.stack([z[:400].mean(0), z[400:].mean(0), torch.full((8,), 900.0)])
    for turn in range(3):
        clusters = Clusters.zeros(3, 8)
        clusters.add(z, *nearest(z, centroids))
        assert turn > 0 or clusters.counts.tolist() == [400, 200, 0]
        again = clusters.centroids(centroids, seed=turn)
        assert torch.equal(again, clusters.centroids(centroids, seed=turn))
        centroids = again
    assert sorted(clusters.counts.tolist()) == [200, 200, 200]


def test_fewer_different_tokens_than_centroids_leave_some_without_tokens():
    z = Z[:5].repeat(40, 1)
    numbers = run(fitter(9, z, passes=3), z)
    assert numbers[-1]["utilisation"] == pytest.approx(5 / 9) and numbers[-1]["inertia"] < 1e-9


# --- the dictionary


def test_one_hot_codes_decode_to_the_centroid():
    made = fitter()
    run(made)
    found = made.dictionaries()[""]
    x = NORMALISER.inverse(Z)
    codes = found.encode(x)
    index = brute(NORMALISER(x), found.atoms).argmin(1)
    assert torch.equal(codes, torch.nn.functional.one_hot(index, 12).float())
    torch.testing.assert_close(found.decode(codes), NORMALISER.inverse(found.atoms[index]))


def test_inverse_distance_codes_decode_to_a_weighted_mean():
    found = KMeansDictionary(NORMALISER, Z[:12], code="inverse")
    codes = found.encode(NORMALISER.inverse(Z[:100]))
    expected = 1 / (1e-6 + brute(NORMALISER(NORMALISER.inverse(Z[:100])), Z[:12]).sqrt())
    far = expected < 1e3
    torch.testing.assert_close(codes.double()[far], expected[far], rtol=1e-4, atol=0)
    assert (codes[:12].argmax(1) == torch.arange(12)).all() and (codes[:12].amax(1) > 1e4).all()
    weights = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(
        NORMALISER(found.decode(codes)).double()[12:], (weights @ Z[:12].double())[12:], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("code", ["onehot", "inverse"])
def test_settings_and_tensors_make_it_anew(code):
    found = KMeansDictionary(NORMALISER, Z[:12], code)
    again = KMeansDictionary(Normaliser(torch.zeros(8), torch.ones(())), torch.zeros(12, 8), **found.settings())
    again.load_state_dict(found.state_dict())
    x = NORMALISER.inverse(Z[:50])
    assert again.settings() == {"code": code} and torch.equal(again.encode(x), found.encode(x))


# --- mistakes


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"n_latents=12 of k-means: there are 11 tokens.*lower n_latents"):
        fitter(12, Z[:11])
    with pytest.raises(ValueError, match=r"passes=0: must be at least 1"):
        KMeans(12, passes=0)
    with pytest.raises(ValueError, match=r"code=soft: choose onehot or inverse"):
        KMeans(12, code="soft")
    with pytest.raises(ValueError, match=r"without any token"):
        fitter().finish_pass()


def test_a_small_sample_is_warned_of(caplog):
    fitter(100)
    assert (
        "3000 tokens for 100 centroids, 30.0 each; at least 39 are advised: record more images, or lower n_latents"
        in (caplog.text)
    )
