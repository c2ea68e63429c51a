"""The shells: independent of the split into batches and processes, members apart from each other."""

import copy
import datetime
import weakref

import numpy as np
import pytest
import torch
import torch.distributed as dist

from saev.metrics.stateful import Activity, InputMoments, Reconstruction, ValidationMetrics

D_MODEL, D_SAE = 6, (10, 25)


def _data(n=200, seed=0):
    """Activations and, for two members of different width, (codes, x_hat)."""
    g = torch.Generator().manual_seed(seed)
    x = 50 + torch.randn(n, D_MODEL, generator=g)
    outputs = []
    for width in D_SAE:
        codes = torch.randn(n, width, generator=g) * (torch.rand(n, width, generator=g) < torch.linspace(0, 0.6, width))
        outputs.append((codes, x + 0.2 * torch.randn(n, D_MODEL, generator=g)))
    return x, outputs


def _fresh():
    return ValidationMetrics(shift=torch.full((D_MODEL,), 49.0), d_sae=D_SAE)


def _feed(metrics, x, outputs, start, stop):
    metrics.update(x[start:stop], [(codes[start:stop], x_hat[start:stop]) for codes, x_hat in outputs])
    return metrics


def _numbers(metrics):
    rows = [{name: value.item() for name, value in row.items()} for row in metrics.compute()]
    latents = [{name: value.tolist() for name, value in metrics.latents(m).items()} for m in range(len(D_SAE))]
    return rows, latents


def _assert_equal(one, other):
    integers = ("l0", "l0_fraction", "dead", "almost_dead", "dense_above_0.1", "dense_above_0.01", "n_tokens")
    for a, b in zip(one[0], other[0], strict=True):
        assert {name: a[name] for name in integers} == {name: b[name] for name in integers}
        assert a == pytest.approx(b, rel=1e-12)
    for a, b in zip(one[1], other[1], strict=True):
        assert a["frequency"] == b["frequency"]
        np.testing.assert_allclose(a["mean_value"], b["mean_value"], rtol=1e-12, atol=1e-15)


def test_a_dictionary_of_one_latent_has_numbers_too():
    metrics = ValidationMetrics(shift=torch.zeros(2), d_sae=[1])
    metrics.update(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), [(torch.tensor([[0.0], [3.0]]), torch.zeros(2, 2))])
    (row,) = metrics.compute()
    assert (row["l0"].item(), row["l0_fraction"].item(), row["dead"].item()) == (0.5, 0.5, 0)
    assert {name: value.tolist() for name, value in metrics.latents(0).items()} == {
        "frequency": [0.5],
        "mean_value": [3],
    }


def test_numbers_are_those_of_numpy():
    x, outputs = _data()
    rows, latents = _numbers(_feed(_fresh(), x, outputs, 0, 200))
    for row, latent, (codes, x_hat) in zip(rows, latents, outputs, strict=True):
        a, b, f = x.double().numpy(), x_hat.double().numpy(), codes.double().numpy()
        nmse = ((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum()
        frequency = (f != 0).mean(0)
        expected = {
            "nmse": nmse,
            "explained_variance": 1 - nmse,
            "mse": ((a - b) ** 2).mean(),
            "l0": (f != 0).sum(1).mean(),
            "l0_fraction": (f != 0).mean(),
            "l1": np.abs(f).sum(1).mean(),
            "dead": (frequency == 0).mean(),
            "almost_dead": (frequency < 1e-6).mean(),
            "dense_above_0.1": (frequency > 0.1).mean(),
            "dense_above_0.01": (frequency > 0.01).mean(),
            "n_tokens": 200,
        }
        assert row == pytest.approx(expected, rel=1e-10)
        assert latent["frequency"] == pytest.approx(frequency.tolist())
        fires = frequency > 0
        np.testing.assert_allclose(np.array(latent["mean_value"])[fires], f.sum(0)[fires] / (f != 0).sum(0)[fires])
        assert np.isnan(np.array(latent["mean_value"])[~fires]).all() and not fires.all()


@pytest.mark.parametrize("cuts", [[100], [1, 2, 199], [7, 70, 133]])
def test_numbers_do_not_depend_on_the_split(cuts):
    x, outputs = _data()
    split = _fresh()
    for start, stop in zip([0, *cuts], [*cuts, 200], strict=True):
        _feed(split, x, outputs, start, stop)
    _assert_equal(_numbers(split), _numbers(_feed(_fresh(), x, outputs, 0, 200)))


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (lambda: InputMoments(torch.full((D_MODEL,), 49.0)), lambda x, codes, x_hat: (x,)),
        (Reconstruction, lambda x, codes, x_hat: (x, x_hat)),
        (lambda: Activity(D_SAE[0]), lambda x, codes, x_hat: (codes,)),
    ],
)
def test_merged_halves_are_one_pass(make, arguments):
    x, [(codes, x_hat), _] = _data()
    whole, first, second = make(), make(), make()
    whole.update(*arguments(x, codes, x_hat))
    first.update(*arguments(x[:77], codes[:77], x_hat[:77]))
    second.update(*arguments(x[77:], codes[77:], x_hat[77:]))
    first.merge_state(second)
    for name in whole._defaults:
        merged, expected = getattr(first, name), getattr(whole, name)
        assert merged.dtype == expected.dtype and merged.dtype in (torch.int64, torch.float64)
        torch.testing.assert_close(merged, expected, rtol=1e-12, atol=1e-9 if merged.ndim else 0)


def test_reset_starts_again():
    x, outputs = _data()
    metrics = _feed(_fresh(), *_data(seed=1), 0, 200)
    metrics.reset()
    _assert_equal(_numbers(_feed(metrics, x, outputs, 0, 200)), _numbers(_feed(_fresh(), x, outputs, 0, 200)))


def test_what_compute_returned_does_not_change_later():
    x, outputs = _data()
    metrics = _feed(_fresh(), x, outputs, 0, 50)
    rows = metrics.compute()
    before = copy.deepcopy(rows)
    _feed(metrics, x, outputs, 50, 200)
    assert rows == before and rows[0]["n_tokens"] == 50


def test_a_members_nan_stays_its_own():
    x, outputs = _data()
    healthy = _numbers(_feed(_fresh(), x, outputs, 0, 200))[0][1]
    outputs[0] = (outputs[0][0], outputs[0][1] * torch.nan)
    rows = _numbers(_feed(_fresh(), x, outputs, 0, 200))[0]
    assert np.isnan(rows[0]["nmse"]) and rows[1] == healthy


def test_states_stay_double_in_a_half_precision_module():
    metrics = _fresh().bfloat16()
    x, outputs = _data()
    rows = _feed(metrics, x, outputs, 0, 200).compute()
    assert rows[0]["nmse"].dtype == torch.float64
    assert rows[0]["nmse"].item() == pytest.approx(_feed(_fresh(), x, outputs, 0, 200).compute()[0]["nmse"].item())


def test_a_members_outputs_are_freed_before_the_next_ones_are_made():
    x, outputs = _data()
    made: list[weakref.ref] = []

    def make(codes, x_hat):
        assert all(ref() is None for ref in made)
        made.append(weakref.ref(copied := codes.clone()))
        return copied, x_hat

    _fresh().update(x, (make(*pair) for pair in outputs))
    assert len(made) == 2


@pytest.mark.parametrize("members", [[0], [0, 1, 1]])
def test_number_of_members_is_checked(members):
    x, outputs = _data()
    with pytest.raises(AssertionError, match="members"):
        _fresh().update(x, [outputs[m] for m in members])


def process(folder):
    """What each of two processes does."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(minutes=2))
    x, outputs = _data()
    start, stop = ((0, 130), (130, 200))[dist.get_rank()]  # uneven on purpose
    torch.save(_numbers(_feed(_fresh(), x, outputs, start, stop)), f"{folder}/{dist.get_rank()}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_numbers_of_one(fork_pair, tmp_path):
    fork_pair("metrics.test_stateful:process", tmp_path)
    x, outputs = _data()
    expected = _numbers(_feed(_fresh(), x, outputs, 0, 200))
    for rank in range(2):
        _assert_equal(torch.load(tmp_path / f"{rank}.pt"), expected)
