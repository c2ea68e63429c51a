"""Every gradient of a training step against autograd through dense matrices, written out here for each architecture."""

import pytest
import torch
from nn.small_bank import OBJECTIVES
from torch import nn

from saev.nn import (
    AuxK,
    BatchTopK,
    Gated,
    JumpReLU,
    Member,
    Normaliser,
    ReLU,
    TopK,
)  # fmt: skip

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
D_MODEL, D_SAE, BATCH = 11, 53, 37  # nothing divides anything


def kept(h, n, dim):
    """A mask of the n largest, along each row or in all."""
    flat = h.relu() if dim is not None else h.relu().flatten()
    indices = flat.topk(n, dim=-1).indices
    return torch.zeros_like(flat).scatter(-1, indices, 1.0).view_as(h)


def relu(h, p):
    f = h.relu()
    return f, 0.25 * f.sum(1).mean()


def relu_by_norm(h, p):
    f = h.relu()
    return f, 0.25 * (f * p["w_dec"].norm(dim=1)).sum(1).mean()


def topk(k):
    return lambda h, p: (h.relu() * kept(h, k, 1).detach(), 0.0)


def batchtopk(k):
    return lambda h, p: (h.relu() * kept(h, k * len(h), None).detach(), 0.0)


def jumprelu(penalty):
    """Gradients to the threshold by the paper's estimators: what stands in for the derivative of a jump, times theta's change."""

    def made(h, p):
        theta, epsilon = p["sparsifier.theta"] * p["sparsifier.unit"].detach(), 0.5 * p["sparsifier.scale"].detach()
        change = ((h - theta).abs() < epsilon / 2).to(h.dtype).detach() / epsilon * (theta - theta.detach())
        active = (h > theta).to(h.dtype).detach()
        f = h * active - theta.detach() * change
        return f, penalty(f, active - change)

    return made


ARCHITECTURES = {
    "jumprelu": (lambda: JumpReLU(0.25), jumprelu(lambda f, active: 0.25 * active.sum(1).mean())),
    "jumprelu-target": (
        lambda: JumpReLU(l0_target=3),
        jumprelu(lambda f, active: (active.sum(1).mean() / 3 - 1).square()),
    ),
    "jumprelu-tanh": (
        lambda: JumpReLU(0.25, tanh=4.0),
        jumprelu(lambda f, active: 0.25 * (4 * f).tanh().sum(1).mean()),
    ),
    "relu": (lambda: ReLU(0.25), relu),
    "relu-atom-norm": (lambda: ReLU(0.25, atom_norm=True), relu_by_norm),
    "topk-1": (lambda: TopK(1), topk(1)),
    "topk-3": (lambda: TopK(3), topk(3)),
    "topk-all": (lambda: TopK(D_SAE), topk(D_SAE)),
    "topk-threshold": (lambda: TopK(3, threshold=True), topk(3)),
    "batchtopk-1": (lambda: BatchTopK(1), batchtopk(1)),
    "batchtopk-3": (lambda: BatchTopK(3), batchtopk(3)),
    "gated": (lambda: Gated(0.25), None),
}


def gated(h, p, z):
    pi = h + p["sparsifier.b_gate"]
    f = (pi > 0) * (p["sparsifier.r"].exp() * h + p["sparsifier.b_mag"]).relu()
    aux = (z - pi.relu() @ p["w_dec"].detach() - p["b_dec"].detach()).square().mean()
    return f, 0.25 * pi.relu().sum(1).mean() + aux


def world(name, objective, dtype, dead_tokens=10**9, **more):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(BATCH, D_MODEL, generator=g, dtype=dtype)
    spec = Member(
        ARCHITECTURES[name][0](),
        "a",
        OBJECTIVES[objective](),
        AuxK(dead_tokens=dead_tokens, k=4),
        1e-3,
        d_sae=D_SAE,
        **more,
    )
    member = spec.build(Normaliser(torch.zeros(D_MODEL), torch.ones(())), z.float()).to(dtype)
    if "theta" in dict(member.sae.sparsifier.named_buffers()):
        member.sae.sparsifier.theta = member.sae.sparsifier.theta.float()  # as it is kept whatever the weights are
    with torch.no_grad():
        member.sae.b_dec.normal_(0, 0.1, generator=g)
        member.sae.b_enc.normal_(0, 0.1, generator=g)
        member.sae.b_enc[:7] = -100  # latents that never fire
        z[3] = member.sae.b_dec  # a token on which only biases count
        z[5:8] = 0
    return member, z


def expected_loss(member, z, name, objective):
    """(loss, parameters of its own, by name)."""
    p = {n: v.detach().clone().requires_grad_() for n, v in member.sae.state_dict().items() if v.is_floating_point()}
    h = (z - p["b_dec"]) @ p["w_enc"] + p["b_enc"]
    f, more = gated(h, p, z) if name == "gated" else ARCHITECTURES[name][1](h, p)
    goal = OBJECTIVES[objective]()
    ends = {"plain": lambda: [D_SAE], "matryoshka": lambda: goal.ends(D_SAE), "random": lambda: goal.ends(D_SAE, 0)}
    errors = [
        (z - f[:, :end] @ p["w_dec"][:end] - p["b_dec"]).square().sum(1).mean() / D_MODEL for end in ends[objective]()
    ]
    return sum(errors) / len(errors) + more, p


@pytest.mark.parametrize("products", ["auto", "sparse", "dense"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_those_of_dense_autograd(name, objective, dtype, products):
    member, z = world(name, objective, dtype)
    member.products = products
    losses = member(z)
    losses.loss.backward()
    loss, p = expected_loss(member, z, name, objective)
    loss.backward()
    assert abs(float(losses.loss - loss)) <= TOLERANCE[dtype] * float(loss)
    if products == "auto" and ("jumprelu" in name or name == "gated"):
        assert member.sae.sparsifier.select(member.sae.pre_activations(z).detach()) is not None, "few are active"
    compared = 0
    for parameter_name, parameter in member.sae.named_parameters():
        if not parameter.requires_grad:
            continue
        theirs = p["w_enc"].grad.T if parameter_name == "encoder" else p[parameter_name].grad
        assert parameter.grad.shape == theirs.shape
        assert (parameter.grad - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max(), parameter_name
        compared += bool(theirs.any())
    assert compared >= 4


@pytest.mark.parametrize("name", ["relu", "relu-atom-norm", "jumprelu", "jumprelu-target", "jumprelu-tanh", "gated"])
def test_a_batch_in_which_nothing_fires_is_that_of_matrices(name):
    found = {}
    for products in ("auto", "dense"):
        member, z = world(name, "matryoshka", torch.float64)
        member.products = products
        with torch.no_grad():
            member.sae.b_enc.fill_(-100)
        losses = member(z)
        losses.loss.backward()
        assert float(losses.l0) == 0
        found[products] = [*losses, *(p.grad for p in member.sae.parameters() if p.grad is not None)]
    assert len(found["auto"]) == len(found["dense"]) > 7
    for ours, theirs in zip(found["auto"], found["dense"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("products", ["sparse", "dense"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n_dead", [1, 3, 20])
def test_gradients_of_auxk_are_those_of_dense_autograd(n_dead, dtype, products):
    """Fewer dead latents than it chooses, and more."""
    member, z = world("topk-3", "plain", dtype, dead_tokens=5)
    member.products = products
    member.tokens_since_fired[7 : 7 + n_dead] = 5
    dead = member.tokens_since_fired >= 5
    losses = member(z)
    losses.loss.backward()
    loss, p = expected_loss(member, z, "topk-3", "plain")
    h = (z - p["b_dec"]) @ p["w_enc"] + p["b_enc"]
    e = (z - topk(3)(h, p)[0] @ p["w_dec"] - p["b_dec"]).detach()
    masked = torch.where(dead, h, 0.0)
    e_hat = (masked.relu() * kept(masked, 4, 1).detach()) @ p["w_dec"]
    aux = (e_hat - e).square().sum() / (e - e.mean(0)).square().sum() / 32
    (loss + aux).backward()
    assert float(losses.aux.detach()) == pytest.approx(float(aux.detach()), rel=TOLERANCE[dtype])
    for name, parameter in member.sae.named_parameters():
        theirs = p["w_enc"].grad.T if name == "encoder" else p[name].grad
        assert (parameter.grad - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max(), name


def test_an_empty_batch_is_refused():
    member, z = world("topk-3", "plain", torch.float32)
    with pytest.raises(ValueError, match="no tokens"):
        member(z[:0])
    assert not nn.utils.parameters_to_vector(member.sae.parameters()).isnan().any()
