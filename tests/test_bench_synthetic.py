"""The synthetic benchmark: its world obeys its law, and its metrics are their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from benchmarks import bench_synthetic, recovery, synthetic_training, zoo
from benchmarks.synthetic import Law, World, before_trees, separate, zipf
from saev.nn import SparseAutoencoder, TopK
from saev.nn.initialise import initialise

LAW = Law(n_features=60, d_model=16, roots=4, branching=3, depth=2, rank=3, separation=(5, 3e-4))  # 4 + 12 + 36, 8 flat


@pytest.fixture(scope="module")
def world():
    return World(LAW, seed=1)


def test_a_batch_is_a_function_of_seed_and_number(world):
    again = World(LAW, seed=1)
    again.batch(3, 20)  # what was drawn before does not matter
    for one, other in zip(world.batch(7, 20), again.batch(7, 20), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(world.batch(7, 20).x, world.batch(8, 20).x)
    assert not torch.equal(world.batch(7, 20).x, World(LAW, seed=2).batch(7, 20).x)


def test_activations_are_linear_in_the_features(world):
    x, f = world.batch(0, 50)
    x_hat = world.bias.double() + sum(f[:, j, None].double() * world.atoms[j].double() for j in range(LAW.n_features))
    torch.testing.assert_close(x.double(), x_hat, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(world.atoms.norm(dim=1), torch.ones(LAW.n_features))
    assert float(world.bias.norm()) == pytest.approx(0.5)


def test_children_fire_with_their_parent_and_one_at_a_time(world):
    fires = (world.batch(0, 4000).f > 0).numpy()
    starts = {0: 4, 4: 16}  # first parent of a level -> first child
    seen = 0
    for parents, children in starts.items():
        for i in range(children - parents):
            brood = fires[:, children + 3 * i : children + 3 * i + 3]
            assert not brood[~fires[:, parents + i]].any()
            assert brood.sum(1).max() <= 1
            seen += brood.sum()
    assert seen > 1000


def test_a_child_is_as_strong_as_its_parent():
    world = World(Law(60, 16, 4, 3, 2, rank=3, spread=(0.3, 0.0), separation=(0, 0.0)), seed=0)
    f = world.batch(0, 20000).f.double()
    parent, child = f[:, 0], f[:, 4]
    both = child > 0
    relative = child[both] / parent[both] * world.mean[0].double()  # the child's own draw, free of the parent
    assert float(relative.mean()) == pytest.approx(float(world.mean[4]), abs=0.02)
    assert float(relative.std()) == pytest.approx(0.3, rel=0.05)
    assert abs(np.corrcoef(relative, parent[both])[0, 1]) < 0.05


def test_features_fire_as_often_as_computed():
    """Against counting, without correlation, where the computation is exact: four standard errors."""
    world = World(Law(60, 16, 4, 3, 2, rank=3, correlation=0.0, p_max=0.3, separation=(0, 0.0)), seed=0)
    n = 40_000
    share = (world.batch(0, n).f > 0).double().mean(0)
    error = (world.frequency * (1 - world.frequency) / n).sqrt()
    assert ((share - world.frequency).abs() < 4 * error + 1e-9).all()


def test_probabilities_are_what_enumerating_all_draws_gives():
    law = Law(n_features=9, d_model=4, roots=2, branching=3, depth=1, p_max=0.4, p_min=0.02)
    raw, true = before_trees(law)
    target = zipf(9, law.exponent, law.p_max, law.p_min)
    torch.testing.assert_close(true[:2], target[:2])
    for tree in range(2):
        q = raw[2 + 3 * tree : 5 + 3 * tree].tolist()
        fires = [0.0] * 3
        for drawn in itertools.product((0, 1), repeat=3):
            chance = math.prod(p if d else 1 - p for p, d in zip(q, drawn, strict=True))
            for j in range(3):
                fires[j] += drawn[j] * chance * float(true[tree]) / max(1, sum(drawn))
        assert fires == pytest.approx(true[2 + 3 * tree : 5 + 3 * tree].tolist(), abs=1e-9)
        assert fires == pytest.approx(target[2 + 3 * tree : 5 + 3 * tree].tolist(), abs=1e-9) or min(q) == 1
    torch.testing.assert_close(true[8], target[8])


def test_zipf_runs_between_its_bounds():
    p = zipf(1000, 0.5, 0.4, 5e-4).numpy()
    rank = np.arange(1, 1001.0)
    assert np.corrcoef(p, rank**-0.5)[0, 1] == pytest.approx(1)
    assert (p[0], p[-1]) == pytest.approx((0.4, 5e-4))


def test_the_published_size_has_the_published_sparsity():
    """About 34 features active, about 25 of the 4096 most frequent."""
    _, true = before_trees(Law())
    assert 33 < float(true.sum()) < 36
    assert 24.5 < float(true.sort(descending=True).values[:4096].sum()) < 26


def test_too_many_trees_are_refused():
    with pytest.raises(ValueError, match=r"680 features, more than n_features=600: plant fewer roots"):
        Law(n_features=600, roots=8)


def test_separation_lowers_the_sum_of_squared_cosines():
    atoms = torch.nn.functional.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    apart = separate(atoms, 100, 3e-3)

    def squares(a):
        a = a.double().numpy()
        return sum((a[i] @ a[j]) ** 2 for i in range(40) for j in range(40) if i != j)

    assert squares(apart) < 0.9 * squares(atoms)
    torch.testing.assert_close(apart.norm(dim=1), torch.ones(40))


matrices = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6))


@given(matrices)
@pytest.mark.slow
def test_mcc_is_the_best_of_all_matchings(shape):
    n_atoms, n_features, seed = shape
    rng = np.random.default_rng(seed)
    atoms, features = rng.normal(size=(n_atoms, 3)), rng.normal(size=(n_features, 3))
    cosine = np.array([[abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for b in features] for a in atoms])
    few, many = (cosine, n_features) if n_atoms <= n_features else (cosine.T, n_atoms)
    best = max(
        np.mean([few[i, j] for i, j in enumerate(columns)]) for columns in itertools.permutations(range(many), len(few))
    )
    got = recovery.cosines(torch.from_numpy(atoms), torch.from_numpy(features))
    np.testing.assert_allclose(got.numpy(), cosine, atol=1e-12)
    assert recovery.mean_correlation(got) == pytest.approx(best, abs=1e-6)


@given(matrices)
@pytest.mark.slow
def test_f1_is_scikit_learns(shape):
    d_sae, n_features, seed = shape
    rng = np.random.default_rng(seed)
    codes, f = rng.random((30, d_sae)) * (rng.random((30, d_sae)) < 0.3), rng.random((30, n_features)) > 0.8
    match = rng.integers(n_features, size=d_sae)
    counts = torch.zeros(3, d_sae, dtype=torch.int64)
    for part in np.split(np.arange(30), [7, 20]):  # adds up over batches
        counts += recovery.detection_update(*(torch.from_numpy(a) for a in (codes[part], f[part] * 1.0, match)))
    ours = recovery.detection_compute(counts)
    rows = [
        precision_recall_fscore_support(f[:, match[j]], codes[:, j] > 0, average="binary", zero_division=0.0)[:3]
        for j in range(d_sae)
    ]
    precision, recall, f1 = np.mean(rows, 0)
    assert ours == pytest.approx((f1, precision, recall))


@given(matrices)
def test_uniqueness_counts_features_that_some_atom_is_closest_to(shape):
    n_atoms, n_features, seed = shape
    cosine = np.random.default_rng(seed).random((n_atoms, n_features))
    match = recovery.best_match(torch.from_numpy(cosine))
    closest = [max(range(n_features), key=lambda j: row[j]) for row in cosine]
    assert match.tolist() == closest
    assert recovery.uniqueness(match) == pytest.approx(len(set(closest)) / n_atoms)


@pytest.mark.slow
def test_every_architecture_of_conf_is_trained_and_judged():
    size = synthetic_training.Size(LAW, 32, steps=3, lr=1e-3, warmup=1, dead_tokens=100, batch=64, eval_batches=2)
    world = World(LAW)
    rows = bench_synthetic.judge(synthetic_training.train(world, size, 3), world, size)
    assert [row["architecture"] for row in rows] == zoo.architectures()
    assert {"relu", "topk", "batchtopk", "batchtopk+matryoshka"} <= set(zoo.architectures())
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
        assert 0 < row["MCC"] < 1 and row["L0"] > 0 and row["seconds"] > 0


@pytest.mark.slow
def test_an_architecture_is_judged_beside_its_nulls_and_an_oracle():
    size = synthetic_training.Size(LAW, 32, steps=3, lr=1e-3, warmup=1, dead_tokens=100, batch=64, eval_batches=2)
    world = World(LAW)
    rows = {
        row["architecture"]: row
        for row in bench_synthetic.judge(synthetic_training.train(world, size, 3, "batchtopk"), world, size)
    }
    assert {"trained", "decoder_frozen", "untrained", "untrained_random", "random_vectors", "oracle"} < {*rows}
    assert rows["oracle"]["MCC"] == pytest.approx(1, abs=1e-5) and rows["oracle"]["uniqueness"] == 1
    assert rows["untrained"]["MCC"] == rows["decoder_frozen"]["MCC"]


def test_the_features_are_not_where_an_sae_of_the_same_seed_starts(world):
    """Guards against a shared random state: with it the random start is the features."""
    sae = SparseAutoencoder(LAW.d_model, 32, TopK(2))
    initialise(sae, world.batch(0, 200).x, "random", world.seed)
    assert recovery.mean_correlation(recovery.cosines(sae.w_dec.detach(), world.atoms)) < 0.95


def test_the_features_themselves_recover_themselves(world):
    """A dictionary that is the world's scores 1: the table's ceiling, and the direction of each metric."""
    cosine = recovery.cosines(world.atoms, world.atoms)
    f = world.batch(0, 2000).f
    counts = recovery.detection_update(f, f, recovery.best_match(cosine))
    fired = (f > 0).any(0)
    assert recovery.mean_correlation(cosine) == pytest.approx(1, abs=1e-5)
    assert recovery.uniqueness(recovery.best_match(cosine)) == 1
    assert recovery.detection_compute(counts)[0] == pytest.approx(float(fired.double().mean()))


def test_an_order_that_fails_is_named():
    row = {"MCC": 0.5, "F1": 0.5, "explained variance": 0.5}
    good = [
        {"architecture": "jumprelu", **row},
        {"architecture": "relu", "MCC": 0.4, "F1": 0.4, "explained variance": 0.4},
    ]
    assert bench_synthetic.missed(good) == []
    bad = [
        {"architecture": "jumprelu", **row},
        {"architecture": "relu", "MCC": 0.6, "F1": 0.4, "explained variance": 0.4},
    ]
    (line,) = bench_synthetic.missed(bad)
    assert line.startswith("MCC: jumprelu 0.5000 is not above relu 0.6000")
