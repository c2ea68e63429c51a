"""Each sparsifier against its definition written out in NumPy; evaluation never depends on the batch."""

import numpy as np
import pytest
import torch

from saev.nn import BatchTopK, ReLU, TopK

H = torch.randn(32, 40, generator=torch.Generator().manual_seed(0))
W = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)), dim=1)


def test_relu_and_its_penalty():
    relu = ReLU(sparsity=0.5).build(40)
    h = H.numpy()
    np.testing.assert_array_equal(relu(H).numpy(), np.maximum(h, 0))
    assert float(relu.penalty(H, relu(H), W)) == pytest.approx(0.5 * np.maximum(h, 0).sum() / 32, rel=1e-6)


def test_l1_does_not_grow_with_the_batch():
    """Guards against an L1 that sums over the batch and then averages a scalar (a known fault of a peer)."""
    relu = ReLU(sparsity=1.0).build(40)
    assert float(relu.penalty(H.repeat(8, 1), relu(H).repeat(8, 1), W)) == pytest.approx(
        float(relu.penalty(H, relu(H), W)), rel=1e-6
    )


def test_topk_keeps_the_k_largest_positive():
    f = TopK(3).build(40)(H).numpy()
    np.testing.assert_array_equal(TopK(3).build(40).select(H).dense(40).numpy(), f)
    for row, kept in zip(H.numpy(), f, strict=True):
        expected = np.zeros(40)
        best = np.argsort(row)[-3:]
        expected[best] = np.maximum(row[best], 0)
        np.testing.assert_array_equal(kept, expected.astype(np.float32))


def test_batchtopk_keeps_batch_times_k_in_training():
    f = BatchTopK(3).build(40).select(H).dense(40)
    kept = np.sort(H.numpy().ravel())[-32 * 3 :]
    np.testing.assert_array_equal(np.sort(f[f > 0].numpy()), np.maximum(kept, 0)[kept > 0])


def test_batchtopk_threshold_follows_the_least_kept_value():
    act = BatchTopK(3).build(40)
    least = []
    expected = None
    for n in range(5):
        h = H * (n + 1)
        act.select(h)
        least.append(float(np.sort(h.numpy().ravel())[-32 * 3]))
        decay = n / (n + 10)
        expected = least[0] if n == 0 else decay * expected + (1 - decay) * least[-1]
    assert float(act.theta) == pytest.approx(expected, rel=1e-5) and int(act.n_updates) == 5
    act.n_updates.fill_(5000)
    before = float(act.theta)
    act.select(H)
    assert float(act.theta) == pytest.approx(0.999 * before + 0.001 * least[0], rel=1e-5)


def test_batchtopk_evaluates_by_its_threshold_alone():
    """Guards against evaluation that depends on who else is in the batch, and a threshold applied twice."""
    act = BatchTopK(3).build(40)
    act.select(H)
    whole = act(H)
    np.testing.assert_array_equal(whole.numpy(), np.where(H.numpy() > float(act.theta), H.numpy(), 0))
    torch.testing.assert_close(torch.cat([act(row[None]) for row in H]), whole, rtol=0, atol=0)


def test_batchtopk_ignores_batches_without_a_positive_value():
    act = BatchTopK(3).build(40)
    act.select(-H.abs())
    assert float(act.theta) == 0 and int(act.n_updates) == 0


def test_threshold_is_in_the_checkpoint():
    """Guards against a threshold that is lost on saving (a known fault of a peer)."""
    act = BatchTopK(3).build(40)
    act.select(H)
    other = BatchTopK(3).build(40)
    other.load_state_dict(act.state_dict())
    assert float(other.theta) == float(act.theta) > 0


def test_looking_does_not_move_the_threshold():
    act = BatchTopK(3).build(40)
    act.select(H)
    before = float(act.theta)
    act.train()(H * 10)
    assert float(act.theta) == before


def test_l1_weighted_by_the_norms_of_free_atoms():
    relu, scaled = ReLU(sparsity=0.5, atom_norm=True).build(40), 3 * W
    f = np.maximum(H.numpy(), 0)
    assert float(relu.penalty(H, relu(H), scaled)) == pytest.approx(0.5 * 3 * f.sum() / 32, rel=1e-5)


def test_topk_by_threshold_follows_the_mean_of_the_tokens_least_values():
    act = TopK(3, threshold=True).build(40)
    act.select(H)
    least = np.sort(H.numpy(), 1)[:, -3]
    assert float(act.theta) == pytest.approx(least[least > 0].mean(), rel=1e-5)
    np.testing.assert_array_equal(act(H).numpy(), np.where(H.numpy() > float(act.theta), H.numpy(), 0))
    act.select(-H.abs())
    assert int(act.n_updates) == 1


@pytest.mark.parametrize("make", [lambda: TopK(0), lambda: BatchTopK(-1), lambda: ReLU(-1.0)])
def test_wrong_settings_are_named(make):
    with pytest.raises(ValueError, match=r"^(k|sparsity)=.*: must be at least"):
        make()
