"""Autoencoders of which a part does not change: their gradients, their start, and that nothing else moves."""

import copy

import pytest
import torch
from conftest import mostly_slow
from nn.small_bank import SPARSIFIERS, Z, build, normaliser, spec
from nn.test_gradients import ARCHITECTURES, TOLERANCE, expected_loss, world
from torch.nn.functional import cosine_similarity, normalize

from saev.checkpoint import START, save_dictionary, start_of
from saev.nn import Archetypal, AuxK, Member, SAEBank, SparseAutoencoder, TopK
from saev.nn.freezing import COSINE, hold_near
from saev.nn.initialise import initialise
from saev.nn.muon import Muon
from saev.training.bank.module import BankModule

OF_ENCODER = ("encoder", "b_enc", "sparsifier.")


def frozen_names(sae, freeze):
    names = [name for name, _ in sae.named_parameters()]
    return {
        "decoder": [name for name in names if name.startswith(("w_dec", "archetypes"))],
        "encoder": [name for name in names if name.startswith(OF_ENCODER)],
        "all": names,
        "soft": [],
        "none": [],
    }[freeze]


@pytest.mark.parametrize("freeze", ["decoder", "encoder"])
@pytest.mark.parametrize("products", mostly_slow(["sparse", "dense"]))
@pytest.mark.parametrize("objective", mostly_slow(["plain", "matryoshka"]))
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_parameters_learn_as_in_a_plain_loop(name, objective, products, freeze):
    """Five steps of SGD: autograd through dense matrices, parameters of the frozen part left out."""
    dtype = torch.float64
    member, z = world(name, objective, dtype, freeze=freeze)
    member.products, frozen = products, frozen_names(member.sae, freeze)
    start = {n: v.clone() for n, v in member.sae.named_parameters()}
    optimiser = torch.optim.SGD(member.sae.parameters(), lr=0.05)
    for _ in range(5):
        losses = member(z)
        loss, p = expected_loss(member, z, name, objective)
        losses.loss.backward()
        loss.backward()
        for parameter_name, parameter in member.sae.named_parameters():
            theirs = p["w_enc"].grad.T if parameter_name == "encoder" else p[parameter_name].grad
            if parameter_name in frozen or not parameter.requires_grad:
                assert parameter.grad is None, parameter_name
            else:
                assert (parameter.grad - theirs).abs().max() <= TOLERANCE[dtype] * theirs.abs().max(), parameter_name
        optimiser.step()
        optimiser.zero_grad()
        member.finish_step(losses.l0)
    moved = {n for n, v in member.sae.named_parameters() if not torch.equal(v, start[n])}
    assert moved.isdisjoint(frozen) and "b_dec" in moved
    assert ("w_dec" in moved) == (freeze == "encoder") and ("encoder" in moved) == (freeze == "decoder")


def steps(member, n=30, optimiser=None, z=Z):
    """The losses and gradient norms of n steps as BankModule takes them."""
    optimiser = optimiser or torch.optim.Adam(member.sae.parameters(), lr=1e-2)
    module = BankModule(SAEBank([member]), lambda groups: optimiser)
    return [module._member_step(member, z, optimiser, optimiser.param_groups[0]) for _ in range(n)]


@pytest.mark.parametrize("freeze", ["none", "decoder", "encoder", "soft", "all"])
@pytest.mark.parametrize(
    ("sae", "optimiser"), [*((sae, "adam") for sae in SPARSIFIERS), ("topk", "muon"), ("relu-atom-norm", "muon")]
)
def test_what_is_frozen_does_not_change_by_a_bit(sae, freeze, optimiser):
    member = build(sae=sae, freeze=freeze, dead_tokens=700)  # AuxK revives latents
    before, start = copy.deepcopy(dict(member.sae.named_parameters())), member.sae.atoms.clone()
    made = Muon([{"params": list(member.sae.parameters())}], lr=1e-2) if optimiser == "muon" else None
    history = steps(member, optimiser=made)
    moved = {n for n, v in member.sae.named_parameters() if not torch.equal(v, before[n])}
    frozen = frozen_names(member.sae, freeze)
    trainable = {n for n in before if n not in frozen and not (n == "b_enc" and sae == "gated")}
    assert moved.isdisjoint(frozen) and trainable - {"sparsifier.theta"} <= moved
    assert (float(history[-1]["gradient_norm"]) == 0) == (freeze == "all")
    cosines = cosine_similarity(member.sae.w_dec, start, dim=1).detach()
    if freeze == "soft":
        assert cosines.min() >= COSINE - 1e-4
    if freeze in ("decoder", "all"):
        assert member.start is None
    else:
        torch.testing.assert_close(member.start.float(), start, rtol=0, atol=3e-4)
    if freeze != "all":
        assert float(history[-1]["z_mse"]) < float(history[0]["z_mse"])


def test_soft_atoms_are_held_and_others_would_have_left():
    free, soft = build(sae="topk"), build(sae="topk", freeze="soft")
    steps(free, 150), steps(soft, 150)
    of = lambda member: cosine_similarity(member.sae.w_dec, member.start.float(), dim=1).min().detach()  # noqa: E731
    assert of(free) < 0.7 and of(soft) == pytest.approx(COSINE, abs=1e-3)
    torch.testing.assert_close(soft.sae.w_dec.norm(dim=1), torch.ones(48))


def test_the_held_direction_is_the_nearest_that_is_allowed():
    """In a plane: the angle of each atom with its start, and the side, written out; lengths are kept."""
    angles = torch.tensor([0.0, 0.3, -0.6, 0.7, -1.5, 2.0, -3.0], dtype=torch.float64)
    start = torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64).expand(7, 3)
    length = torch.linspace(0.5, 3, 7, dtype=torch.float64)
    atoms = torch.stack([angles.sin(), angles.cos(), torch.zeros(7)], 1) * length[:, None]
    widest = torch.tensor(COSINE, dtype=torch.float64).arccos()
    hold_near(atoms, start)
    held = angles.clamp(-widest, widest)
    expected = torch.stack([held.sin(), held.cos(), torch.zeros(7)], 1) * length[:, None]
    torch.testing.assert_close(atoms, expected, rtol=1e-12, atol=1e-12)
    odd = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    hold_near(odd, start[:2])
    assert odd[0].tolist() == [0.0, 1.0, 0.0] and odd.isfinite().all()


def test_free_atoms_keep_their_lengths_when_they_are_held():
    member = build(sae="relu-atom-norm", freeze="soft")
    steps(member, 100)
    lengths = member.sae.w_dec.norm(dim=1)
    assert lengths.min() < 0.95 and cosine_similarity(member.sae.w_dec, member.start.float(), dim=1).min() > 0.7999


def test_a_frozen_archetypal_decoder_keeps_mixing_and_residual():
    member = build(init="archetypal", decoder=Archetypal(points=20), freeze="decoder")
    before = copy.deepcopy(member.sae.state_dict())
    steps(member)
    for name in ("w_dec", "archetypes.mixing", "archetypes.residual", "archetypes.lengths"):
        assert torch.equal(member.sae.state_dict()[name], before[name]), name
    with pytest.raises(ValueError, match=r"freeze=soft with decoder=archetypal.*freeze=decoder"):
        spec(init="archetypal", decoder=Archetypal(), freeze="soft")


def test_a_controller_does_not_steer_what_cannot_be_steered():
    """L0 of a frozen encoder is that of its start: the coefficient would grow without end."""
    member = Member(SPARSIFIERS["gated"]().__class__(1e-3, l0_target=2), "a", d_sae=48, freeze="encoder")
    member = member.build(normaliser(), Z)
    steps(member)
    assert float(member.sae.sparsifier.coefficient) == pytest.approx(1e-3)


def test_an_untrained_autoencoder_still_estimates_its_threshold():
    member = build(sae="batchtopk", freeze="all")
    steps(member, 200)
    assert int(member.sae.sparsifier.n_updates) == 200
    assert float((member.sae.eval().encode(Z) > 0).sum(1).float().mean()) > 0


@pytest.mark.parametrize("freeze", ["none", "decoder", "encoder", "soft", "all"])
def test_the_start_is_saved_beside_the_dictionary(tmp_path, freeze):
    settings = spec(freeze=freeze, sae="relu-atom-norm", seed=3)
    member = settings.build(normaliser(), Z)
    fresh = SparseAutoencoder(12, 48, settings.sparsifier, normaliser())
    initialise(fresh, Z, "data", 3)
    steps(member)
    folder = save_dictionary(
        member.sae, tmp_path / "d", start=member.start, hyperparameters=settings.row(), provenance={}
    )
    assert (folder / START).is_file() == (freeze in ("none", "encoder", "soft"))
    torch.testing.assert_close(start_of(folder), fresh.w_dec.detach(), rtol=0, atol=3e-4)
    if (folder / START).is_file():
        stored = bytearray((folder / START).read_bytes())
        stored[-1] ^= 1
        (folder / START).write_bytes(stored)
        with pytest.raises(ValueError, match=r"start\.safetensors is missing or damaged.*restore it"):
            start_of(folder)
        save_dictionary(member.sae, folder)  # without one: that of the dictionary before it is gone
        assert not (folder / START).exists() and start_of(folder) is None


def test_token_atoms_are_directions_of_different_tokens():
    sae = SparseAutoencoder(12, 48, TopK(3))
    initialise(sae, Z, "tokens", 0)
    directions = normalize(Z - sae.b_dec, dim=1)
    cosines = sae.w_dec @ directions.T
    assert torch.allclose(cosines.max(1).values, torch.ones(48), atol=1e-5)
    assert len(set(cosines.argmax(1).tolist())) == 48
    other = SparseAutoencoder(12, 48, TopK(3))
    initialise(other, Z, "tokens", 1)
    assert not torch.equal(sae.w_dec, other.w_dec)
    initialise(few := SparseAutoencoder(12, 48, TopK(3)), Z[:20], "tokens", 0)
    assert len(few.w_dec.unique(dim=0)) == 20
    assert Member(TopK(3), d_sae=40_000, init="tokens").sample_tokens(12) == 320_000


def test_the_setting_is_a_column_and_wrong_values_are_refused():
    assert spec(freeze="soft").row()["freeze"] == "soft" and spec().row()["freeze"] == "none"
    with pytest.raises(ValueError, match="freeze=half"):
        Member(TopK(3), auxk=AuxK(), freeze="half")
