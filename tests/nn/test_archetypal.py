"""Archetypal atoms: projections against brute force, gradients against finite differences, and training under constraint."""

import numpy as np
import pytest
import torch
from conftest import mostly_slow
from nn.small_bank import OBJECTIVES, SPARSIFIERS, train
from scipy.optimize import minimize

import saev
from saev.checkpoint import save_dictionary
from saev.nn import Archetypal, AuxK, Member, Normaliser
from saev.nn.archetypal import Archetypes, project_to_simplex
from saev.shards import Moments

ROWS = np.random.default_rng(0).normal(1, 2, size=(1200, 12)) * np.linspace(0.3, 2, 12)
X = torch.from_numpy(ROWS).float()


def normaliser():
    return Normaliser.fit(Moments.of(ROWS))


Z = normaliser()(X)
NAMES = ("relu", "relu-atom-norm", "topk", "batchtopk", "jumprelu", "gated")


def spec(sae="topk", objective="plain", delta=0.3, points=16, auxk=None, **more):
    more = {"init": "archetypal", "d_sae": 48, "decoder": Archetypal(points, delta), **more}
    return Member(SPARSIFIERS[sae](), "a", OBJECTIVES[objective](), auxk or AuxK(), 1e-2, **more)


# --- projections


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_simplex_projection_is_the_nearest_point(scale):
    """Against the definition by sorting (Duchi et al. 2008), on rows of every kind."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(50, 9)) * scale, np.eye(9), np.full((1, 9), 1 / 9), np.zeros((1, 9))])
    found = project_to_simplex(torch.from_numpy(rows)).numpy()
    for row, ours in zip(rows, found, strict=True):
        u = np.sort(row)[::-1]
        excess = (np.cumsum(u) - 1) / np.arange(1, 10)
        tau = excess[np.flatnonzero(u > excess)[-1]]
        np.testing.assert_allclose(ours, np.maximum(row - tau, 0), atol=1e-9)


def test_simplex_projection_solves_its_problem():
    for row in np.random.default_rng(1).normal(size=(5, 4)):
        sums = {"type": "eq", "fun": lambda w: w.sum() - 1}
        best = minimize(
            lambda w, row=row: np.square(w - row).sum(),
            np.full(4, 0.25),
            bounds=[(0, None)] * 4,
            constraints=[sums],
            tol=1e-14,
        ).x
        ours = project_to_simplex(torch.from_numpy(row[None])).numpy()[0]
        np.testing.assert_allclose(ours, best, atol=1e-5)


def test_wide_rows_after_a_step_are_projected_exactly():
    """As they come: a vertex moved by the learning rate in every entry."""
    g = torch.Generator().manual_seed(0)
    w = torch.eye(64, 2000) + 4e-3 * torch.randn(64, 2000, generator=g).sign()
    found = project_to_simplex(w)
    torch.testing.assert_close(found.sum(1), torch.ones(64))
    tau = (w - found)[found > 1e-6]
    assert float(found.diagonal().min()) > 0.99 and float(tau.std()) < 1e-4
    torch.testing.assert_close(project_to_simplex(found), found, rtol=1e-5, atol=1e-6)


# --- gradients


def archetypes(delta=0.5, d_sae=6, points=5, d_model=4):
    g = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return Archetypes(random(points, d_model), random(d_sae, points), 0.3 * random(d_sae, d_model), delta)


def formula(a, mixing=None, residual=None):
    """The atoms as a differentiable function of mixing and residual."""
    mixing, residual = (a.mixing, a.residual) if mixing is None else (mixing, residual)
    return torch.nn.functional.normalize(mixing @ a.points + residual, dim=1)


def test_the_gradient_is_carried_on_exactly():
    """pull_back against autograd through the formula, and the formula against finite differences."""
    a = archetypes()
    w_dec = torch.nn.Parameter(a.atoms())
    torch.testing.assert_close(w_dec.detach(), formula(a).detach())

    def loss(atoms):
        return (torch.sin(3 * atoms) * torch.arange(24.0).view(6, 4)).sum() + (atoms @ atoms.T).square().sum()

    loss(w_dec).backward()
    a.pull_back(w_dec)
    assert w_dec.grad is None
    by_autograd = torch.autograd.grad(loss(formula(a)), [a.mixing, a.residual])
    torch.testing.assert_close([a.mixing.grad, a.residual.grad], list(by_autograd))
    assert torch.autograd.gradcheck(
        lambda mixing, residual: loss(formula(a, mixing, residual)),
        (a.mixing.detach().requires_grad_(), a.residual.detach().requires_grad_()),
    )


@pytest.mark.parametrize("sae", ["topk", "relu", "jumprelu"])
def test_a_members_gradient_is_that_of_the_whole_graph(sae):
    """AuxK included: one loss with w_dec as a leaf, one with w_dec made of mixing and residual within the graph."""
    auxk = AuxK(coefficient=0.5, dead_tokens=1)
    member = spec(sae, auxk=auxk).build(normaliser(), Z)
    member.tokens_since_fired[:20] = 5
    member(Z).loss.backward()
    a = member.sae.archetypes
    a.pull_back(member.sae.w_dec)
    member.tokens_since_fired.zero_()
    member.tokens_since_fired[:20] = 5
    leaf = member.sae._parameters.pop("w_dec")
    member.sae.w_dec = formula(a)
    by_autograd = torch.autograd.grad(member(Z).loss, [a.mixing, a.residual])
    del member.sae.w_dec
    member.sae.register_parameter("w_dec", leaf)
    torch.testing.assert_close([a.mixing.grad, a.residual.grad], list(by_autograd), rtol=1e-4, atol=1e-6)


# --- training


def assert_within(sae, delta):
    a = sae.archetypes
    mixing, residual = a.mixing.detach(), a.residual.detach()
    assert float(mixing.min()) >= 0
    torch.testing.assert_close(mixing.sum(1), torch.ones(len(mixing)))
    assert float(residual.norm(dim=1).max()) <= delta * (1 + 1e-6)
    rows = (mixing.double() @ a.points.double() + residual.double()).numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(sae.w_dec.detach().numpy(), rows, atol=1e-5)


@pytest.mark.parametrize("objective", mostly_slow(["plain", "matryoshka"]))
@pytest.mark.parametrize("sae", NAMES)
def test_every_architecture_learns_within_the_constraint(sae, objective):
    member = spec(sae, objective, auxk=AuxK(dead_tokens=3000)).build(normaliser(), Z)
    points, before = member.sae.archetypes.points.clone(), member.sae.w_dec.detach().clone()
    history = [float(losses.z_mse) for losses in train(member, 40, Z)]
    assert history[-1] < 0.9 * history[0]
    assert_within(member.sae, 0.3)
    assert torch.equal(member.sae.archetypes.points, points)
    assert float((member.sae.w_dec.detach() - before).norm()) > 0.1


@pytest.mark.slow
def test_a_residual_at_its_bound_stays_there():
    member = spec(delta=0.05).build(normaliser(), Z)
    train(member, 60, Z)
    norm = member.sae.archetypes.residual.detach().norm(dim=1)
    assert float((norm > 0.0499).float().mean()) > 0.5
    assert_within(member.sae, 0.05)


def test_without_residual_atoms_stay_in_the_cone_of_the_centroids():
    from scipy.optimize import nnls

    member = spec(delta=0.0).build(normaliser(), Z)
    train(member, 30, Z)
    points = member.sae.archetypes.points.double().numpy()
    for atom in member.sae.w_dec.detach().double().numpy():
        assert nnls(points.T, atom)[1] < 1e-5


@pytest.mark.slow
def test_dead_latents_come_back_through_auxk():
    left = {}
    for coefficient in (0.0, 1 / 32):
        auxk = AuxK(coefficient=coefficient, dead_tokens=1200)
        member = spec(auxk=auxk).build(normaliser(), Z)
        with torch.no_grad():
            member.sae.w_enc[:, :24] *= 0.01
        train(member, 3, Z)
        assert int(member.dead.sum()) >= 20
        train(member, 80, Z)
        left[coefficient] = int(member.dead.sum())
    assert left[1 / 32] < left[0.0] / 2


# --- what is saved


@pytest.mark.parametrize("sae", NAMES)
def test_it_is_exported_as_an_ordinary_dictionary(sae, tmp_path):
    member = spec(sae).build(normaliser(), Z)
    train(member, 5, Z)
    save_dictionary(member.sae, tmp_path / "d")
    loaded = saev.load(tmp_path / "d")
    assert loaded.archetypes is None and not [name for name in loaded.state_dict() if "archetypes" in name]
    ours = member.sae.eval()
    torch.testing.assert_close(loaded.atoms, ours.atoms.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loaded.encode(X), ours.encode(X).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.decode(loaded.encode(X)), ours(X).detach(), rtol=1e-5, atol=1e-5)
    assert member.sae.archetypes is not None  # exporting leaves the member in training


# --- settings


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"decoder.points=0: must be at least 1"):
        Archetypal(points=0)
    with pytest.raises(ValueError, match=r"decoder.delta=-1: must be at least 0"):
        Archetypal(delta=-1)
    with pytest.raises(ValueError, match=r"decoder=archetypal with init=data: .* add init=archetypal"):
        spec(init="data").width(12)
    with pytest.raises(ValueError, match=r"decoder.points=16 with init=kmeans"):
        spec(init="kmeans").width(12)
    assert spec(init="kmeans", points=None).build(normaliser(), Z).sae.archetypes.mixing.shape == (48, 48)
