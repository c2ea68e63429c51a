"""Fused steps of a bank's members: `saev.ops.fused` applied to their parameters and to the state of their optimiser.

A member's parameters and torch.optim.Adam's moments are stepped in place, so that checkpoints do not differ from those of the
autograd path, which defines the step. No module keeps what is here: none of it is part of a checkpoint.
"""

import weakref
from typing import Any

import torch
from jaxtyping import BFloat16, Float
from torch import Tensor
from torch.optim import Optimizer

from saev.nn.bank import Losses, TrainingMember
from saev.ops import collective
from saev.ops.fused.adam_atoms import AdamState, Rates, Shadows
from saev.ops.fused.buffers import Buffers
from saev.ops.fused.revive import revive
from saev.ops.fused.step import Decoded, State, Vector, fused_step
from saev.training.bank.fused_rules import finish_step, losses_of, own_parameters, rule_of


class FusedSteps:
    """The buffers of a bank's steps, in which members take turns, and the bfloat16 shadows of each member's parameters."""

    def __init__(self):
        self._buffers: Buffers | None = None
        self._shadows: weakref.WeakKeyDictionary[TrainingMember, tuple[tuple[Any, ...], Shadows]] = (
            weakref.WeakKeyDictionary()
        )

    def step(
        self,
        member: TrainingMember,
        z: Float[Tensor, "batch d_model"],
        optimiser: Optimizer,
        group: dict[str, Any],
        clip: float,
        sparsity_factor: float = 1.0,
    ) -> tuple[Losses, Float[Tensor, ""]] | None:
        """(losses, gradient norm) of one whole step: that of the autograd path up to rounding. ValueError for an empty batch.

        None, and no parameter is changed, where codes are so many that the autograd path is faster.
        """
        member.check_batch(z)
        if self._buffers is None or self._buffers.device != z.device:
            self._buffers = Buffers(z.device)
        sae, auxk, tokens = member.sae, member.auxk, collective.global_batch_size(len(z))
        state, aux = self._state(member, optimiser), None
        maybe = member.maybe_dead_latents(tokens)
        rule = rule_of(sae.sparsifier, sparsity_factor, tokens)
        vectors = [_vector(optimiser, *own) for own in own_parameters(sae.sparsifier)]

        def further(decoded: Decoded, centred: BFloat16[Tensor, "batch d_model"]) -> None:
            nonlocal aux
            k = max(1, sae.d_model // 2) if auxk.k is None else auxk.k
            firing = state.shadows._replace(b_enc=sae.firing_bias.detach().bfloat16())  # of Gated that of its gate
            aux = revive(decoded, centred, state._replace(shadows=firing), maybe, member.dead, k, auxk.coefficient)

        rates = Rates(group["lr"], clip, group["betas"][0], group["betas"][1], group["eps"])
        ends = member.objective.ends(sae.n_latents, member.step)
        numbers = fused_step(z, rule, state, ends, rates, self._buffers, further if len(maybe) else None, vectors)
        if numbers is None:
            return None
        none = self._buffers("none")
        sparsity, auxiliary = losses_of(rule, sae.d_model)
        loss = _sum(numbers.loss, sparsity, auxiliary, aux)
        sparsity, aux = _sum(none, sparsity), _sum(none, auxiliary, aux)
        finish_step(sae.sparsifier, rule, numbers.l0, sparsity_factor)
        member.step += 1
        losses = Losses(loss, numbers.loss, sparsity, aux, numbers.z_mse, numbers.l0)
        return losses, numbers.norm

    def _state(self, member: TrainingMember, optimiser: Optimizer) -> State:
        sae = member.sae
        parameters = (sae.w_dec, sae.encoder, sae.b_enc, sae.b_dec)
        moments = [_moments(optimiser, p) if p.requires_grad else _no_moments(p) for p in parameters]
        # kernels write parameters and shadows without changing `_version`; whatever else writes a parameter changes it
        key = tuple((p.data_ptr(), p._version) for p in parameters[:3])
        if self._shadows.get(member, (None, None))[0] != key:
            atoms, encoder, b_enc = (p.detach().bfloat16() for p in parameters[:3])
            self._shadows[member] = key, Shadows(atoms, encoder, b_enc)
        atoms, encoder, b_enc, b_dec = (
            AdamState(p.detach(), m["exp_avg"], m["exp_avg_sq"]) for p, m in zip(parameters, moments, strict=True)
        )
        steps, shadows = [m["step"] for m in moments], self._shadows[member][1]
        return State(atoms, encoder, b_enc, b_dec, steps, shadows, member.tokens_since_fired)


def _sum(first: Tensor, *terms: Tensor | float | None) -> Tensor:
    """Of those terms that are tensors: an operation on the device for each, where most steps have none."""
    return sum((term for term in terms if isinstance(term, Tensor)), first)


def _vector(optimiser: Optimizer, parameter: torch.nn.Parameter, unit: Tensor | float) -> Vector:
    moments = _moments(optimiser, parameter)
    return Vector(AdamState(parameter.detach(), moments["exp_avg"], moments["exp_avg_sq"]), moments["step"], unit)


def _no_moments(parameter: Tensor) -> dict[str, Tensor]:
    """For b_enc of Gated, which stays 0: no part of the optimiser's state."""
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}


def _moments(optimiser: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Adam's state of a parameter, made as Adam makes it before its first step."""
    state = optimiser.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"], state["exp_avg_sq"] = (
            torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in range(2)
        )
    return state
