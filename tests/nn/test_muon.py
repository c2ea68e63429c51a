"""Muon against torch's own, Adam against torch's own, and a bank of SAEs trained by both as one optimiser."""

import functools

import lightning as L
import numpy as np
import pytest
import torch
from recordings import record
from training.banks import StopAt, assert_equal, build, specs, state

from saev.nn import (
    Archetypal,
    AuxK,
    Member,
    Normaliser,
    Plain,
    TopK,
)
from saev.nn.muon import Muon, is_matrix, orthogonalise


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_singular_values_become_about_one(shape):
    g = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    u, s, vt = np.linalg.svd(g.numpy(), full_matrices=False)
    found = orthogonalise(g).numpy()
    inner = u.T @ found @ vt.T  # diagonal: the singular vectors are kept
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-4)
    kept = np.diag(inner)[s / np.linalg.norm(s) > 0.05]
    assert kept.min() > 0.6 and kept.max() < 1.25


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_a_matrix_moves_as_under_torchs_muon():
    start = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    own = Muon([{"params": [ours], "lr": 1e-2}])
    ref = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for seed in range(5):
        gradient = torch.randn(12, 40, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        ref.step()
    moved, expected = (ours - start).detach(), (theirs - start).detach()
    assert float((moved - expected).norm() / expected.norm()) < 0.02  # theirs iterates in bfloat16
    assert float(moved.square().mean().sqrt()) == pytest.approx(5e-3, rel=1)  # 5 steps of about 0.2 lr an entry


def test_vectors_and_tables_move_as_under_torchs_adam():
    start = torch.randn(30, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    table = torch.nn.Parameter(start.view(5, 6).clone())
    table.per_entry = True  # type: ignore[attr-defined]
    own = Muon([{"params": [ours, table], "lr": 1e-2}], betas=(0.8, 0.95))
    ref = torch.optim.Adam([theirs], lr=1e-2, betas=(0.8, 0.95))
    for seed in range(20):
        gradient = torch.randn(30, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad, table.grad = gradient.clone(), gradient.clone(), gradient.view(5, 6).clone()
        own.step()
        ref.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table.flatten(), theirs, rtol=1e-5, atol=1e-6)


def test_what_is_a_matrix():
    member = members()[-1].build(Normaliser(torch.zeros(16), torch.ones(())), torch.randn(400, 16))
    matrices = {name for name, p in member.sae.named_parameters() if is_matrix(p)}
    assert matrices == {"encoder", "w_dec"}  # and of w_dec the gradient is carried on


def test_each_group_has_its_own_rate():
    one, two = torch.nn.Parameter(torch.eye(4)), torch.nn.Parameter(torch.eye(4))
    optimiser = Muon([{"params": [one], "lr": 1e-2}, {"params": [two], "lr": 2e-2}])
    one.grad = two.grad = torch.arange(16.0).view(4, 4)
    optimiser.step()
    torch.testing.assert_close(two - torch.eye(4), 2 * (one - torch.eye(4)))


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"optimiser.momentum=1"):
        Muon([{"params": [torch.nn.Parameter(torch.eye(2))]}], momentum=1.0)
    with pytest.raises(ValueError, match=r"optimiser.iterations=0"):
        Muon([{"params": [torch.nn.Parameter(torch.eye(2))]}], iterations=0)


# --- a bank


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("muon") / "data")


def members():
    archetypal = Member(
        TopK(4),
        "archetypal",
        Plain(),
        AuxK(dead_tokens=300),
        1e-2,
        d_sae=64,
        init="archetypal",
        decoder=Archetypal(8, 0.3),
    )
    return [*specs(), archetypal]


def run(dataset, settings, steps, optimiser, callbacks=()):
    return build(dataset, settings, steps, callbacks, optimiser=optimiser, limit_val_batches=0)


class Errors(L.Callback):
    """The mean squared error of each member at every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.seen.append([float(value) for value in pl_module.latest["z_mse"]])


OPTIMISERS = {"muon": Muon, "adam": functools.partial(torch.optim.Adam, fused=True)}


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_bank_of_n_is_n_single_runs(dataset, optimiser):
    trainer, together, data = run(dataset, members(), 12, OPTIMISERS[optimiser])
    trainer.fit(together, data)
    assert trainer.global_step == 12 and len(trainer.optimizers) == 1
    assert len(trainer.optimizers[0].param_groups) == len(members())
    for i, spec in enumerate(members()):
        trainer, alone, data = run(dataset, [spec], 12, OPTIMISERS[optimiser])
        trainer.fit(alone, data)
        assert_equal(state(alone.bank.members[0]), state(together.bank.members[i]))


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_resumed_is_uninterrupted(dataset, tmp_path, optimiser):
    """Momenta, Adam's count of steps, and what archetypal atoms are made of."""
    trainer, through, data = run(dataset, members(), 20, OPTIMISERS[optimiser])
    trainer.fit(through, data)
    trainer, first, data = run(dataset, members(), 20, OPTIMISERS[optimiser], [StopAt(11)])
    trainer.fit(first, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer, again, data = run(dataset, members(), 20, OPTIMISERS[optimiser])
    with torch.no_grad():  # nothing of the resumed run may come from its own start
        for parameter in again.parameters():
            parameter.add_(1)
    trainer.fit(again, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert trainer.global_step == 20
    assert_equal(state(again), state(through))


@pytest.mark.slow
def test_it_lowers_the_loss_as_adam_does(dataset):
    """60 steps; each architecture ends within a quarter of Adam's error, and well below where it began."""
    ends = {}
    settings = [members()[0], members()[2], members()[-1]]
    for name, optimiser in OPTIMISERS.items():
        errors = Errors()
        trainer, module, data = run(dataset, settings, 60, optimiser, [errors])
        trainer.fit(module, data)
        start, ends[name] = np.mean(errors.seen[:2], axis=0), np.mean(errors.seen[-10:], axis=0)
        assert (ends[name] < 0.8 * start).all(), (name, start, ends[name])
    assert (ends["muon"] < 1.25 * ends["adam"]).all(), ends
