"""Coalition matching against brute force, and on planted concepts."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score

from saev.dictionary_bench.coalitions import coalition_matching, half_of, two_halves
from saev.dictionary_bench.image_codes import ImageActivations, ImageCodes
from saev.metrics.resampling import draws
from saev.taxon_map.latent_map import firing
from saev.trait_evaluation.table import TraitTable


def codes_of(pooled):
    n, d_model = len(pooled), 2
    matrix = csr_matrix(pooled.astype(np.float32))
    zeros, ones = np.zeros(n), np.ones(len(matrix.data), np.int32)
    images = ImageActivations(
        "made",
        np.arange(n),
        np.full(n, 4),
        np.zeros((n, d_model), np.float32),
        zeros,
        zeros,
        zeros + 1,
        np.full((n, 2), 2),
    )
    return ImageCodes(
        images, pooled.shape[1], matrix.indptr.astype(np.int64), matrix.indices, matrix.data, ones,
        np.full(len(matrix.data), np.nan, np.float32), zeros, zeros, np.zeros((n, d_model), np.float32),
    )  # fmt: skip


@pytest.fixture
def planted():
    """Latents 0 and 1 fire together on `both`; latent 2 or 3 on `either`; the others fire at random."""
    rng = np.random.default_rng(0)
    fires = rng.random((200, 40)) < 0.4
    concepts = np.stack([fires[:, 0] & fires[:, 1], fires[:, 2] | fires[:, 3], rng.random(200) < 0.3], 1)
    return codes_of(fires * rng.uniform(0.5, 1, fires.shape)), TraitTable(
        ("both", "either", "chance"), concepts.astype(np.int8)
    )


def test_combinations_are_found_and_chance_is_at_its_null(planted):
    measured, table = coalition_matching(*planted, draws(200, 50), permutations=5)
    both, either, chance = table.rows(named=True)
    assert both["f1"] == either["f1"] == 1 and both["f1_single"] < 0.9
    assert {both["coalition"], both["coalition_other_half"]} <= {"0 and 1", "1 and 0"}
    assert {either["coalition"], either["coalition_other_half"]} <= {"2 or 3", "3 or 2"}
    assert abs(chance["f1"] - chance["f1_null"]) < 0.15
    assert measured.value == pytest.approx(table["f1"].mean()) and measured.n == 3
    assert (
        measured.columns("coalitions")["coalitions_low"]
        < measured.value
        < measured.columns("coalitions")["coalitions_high"]
    )


def test_the_f1_of_a_half_is_that_of_scikit_learn(planted):
    codes, concepts = planted
    fires = firing(codes.pooled.tocsc(), 0)
    half = half_of(200, np.random.default_rng(1))
    members = (concepts.values == 1).astype(np.float32)
    scored = two_halves(fires, members, half, np.ones((200, 1)), 1)
    dense = fires.toarray() > 0
    for concept in range(3):
        expected = []
        for training in (half, ~half):
            scores = [f1_score(members[training, concept], dense[training, j]) for j in range(40)]
            expected.append(f1_score(members[~training, concept], dense[~training, int(np.argmax(scores))]))
        assert scored.f1[concept, 0] == pytest.approx(np.mean(expected)) == scored.single[concept]


def test_unknown_images_are_left_out(planted):
    codes, concepts = planted
    values = concepts.values.copy()
    values[100:, 0] = -1
    kept = np.arange(200) < 100
    _, whole = coalition_matching(codes, TraitTable(concepts.names, values), permutations=0)
    half = half_of(200, np.random.default_rng(0))
    known = two_halves(
        firing(codes.pooled.tocsc(), 0)[kept],
        (values[kept, :1] == 1).astype(np.float32),
        half[kept],
        np.ones((100, 1)),
        4,
    )
    assert whole["f1"][0] == pytest.approx(known.f1[0, 0]) and whole["n_images"][0] == (values[:100, 0] == 1).sum()
    assert whole["f1_null"].is_nan().all()


def test_a_silent_dictionary_has_f1_0_and_rare_concepts_a_reason(planted):
    _, concepts = planted
    measured, _ = coalition_matching(codes_of(np.zeros((200, 3))), concepts, permutations=1)
    assert measured.value == 0
    rare = TraitTable(("rare",), (np.arange(200)[:, None] < 3).astype(np.int8))
    measured, table = coalition_matching(planted[0], rare)
    assert np.isnan(measured.value) and "5 images" in measured.details["reason"] and not len(table)
