"""A step asks nothing of the host: on meta tensors, which have no values, whoever asks for one fails."""

import copy

import pytest
import torch
from nn.small_bank import OBJECTIVES, SPARSIFIERS, Z, build
from torch.utils._python_dispatch import TorchDispatchMode

from saev.nn import TrainingMember

ASKING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select"}


def one_step(member: TrainingMember, z: torch.Tensor) -> None:
    losses = member(z)
    losses.loss.backward()
    member.condition_gradients(1.0)
    torch.optim.Adam(member.sae.parameters(), lr=1e-3, foreach=False).step()
    member.finish_step(losses.l0)


def known(member: TrainingMember, n_maybe: int) -> TrainingMember:
    """A member that has been told which latents may be dead, as it is between steps."""
    member.maybe_dead.latents, member.maybe_dead.left = (
        torch.arange(n_maybe, device=member.tokens_since_fired.device),
        10**9,
    )
    return member


@pytest.mark.parametrize("n_maybe", [0, 3, 40])
@pytest.mark.parametrize("products", ["auto", "sparse"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_a_step_off_the_cpu_never_waits(sae, objective, products, n_maybe):
    member = build(sae=sae, objective=objective).to("meta")
    member.products = products
    one_step(known(member, n_maybe), Z.to("meta"))


@pytest.mark.parametrize("freeze", ["decoder", "encoder", "soft"])
@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_nor_does_a_step_of_which_a_part_is_frozen(sae, freeze):
    member = build(sae=sae, freeze=freeze).to("meta")
    one_step(known(member, 3), Z.to("meta"))


def test_meta_tensors_tell():
    for asks in (lambda x: x.item(), lambda x: bool(x.any()), lambda x: x.nonzero(), lambda x: x.tolist()):
        with pytest.raises((NotImplementedError, RuntimeError)):
            asks(torch.zeros(1, device="meta"))


class Asked(TorchDispatchMode):
    """Counts what would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if (name := func._schema.name) in ASKING:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_a_step_on_the_cpu_asks_for_two_numbers_at_most(sae):
    """What is dead, and whether the gradient is to be clipped: both save work there, neither costs any."""
    member = build(sae=sae)
    z = copy.deepcopy(Z)
    with Asked() as asked:
        one_step(member, z)
    optimiser = [name for name in asked.names if name == "aten::_local_scalar_dense"]
    assert set(asked.names) <= {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero"}, asked.names
    assert asked.names.count("aten::nonzero") == 1
    assert len(optimiser) <= 2 + len(list(member.sae.parameters())), asked.names  # Adam reads its step counts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("products", ["auto", "sparse", "dense"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_a_step_on_a_gpu_never_waits_and_is_that_of_the_cpu(sae, objective, products):
    here, there = (build(sae=sae, objective=objective) for _ in range(2))
    there, z = known(there.cuda(), 3), Z.cuda()
    here.products = there.products = products
    one_step(there, z)  # what is set up once may wait
    there.maybe_dead.left = 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        one_step(there, z)  # asks who may be dead
        one_step(there, z)  # takes the answer
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(3):
        one_step(here, Z)
    for name, value in here.sae.named_parameters():
        torch.testing.assert_close(there.sae.get_parameter(name).cpu(), value, rtol=1e-2, atol=3e-3, msg=name)
