"""What a fused step needs of a member's sparsifier: its rule, its own parameters, its losses, and what it does after a step."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.sparsifiers.base import Sparsifier
from saev.nn.sparsifiers.batchtopk import BatchTopKSparsifier
from saev.nn.sparsifiers.gated import GatedSparsifier
from saev.nn.sparsifiers.jumprelu import JumpReLUSparsifier
from saev.nn.sparsifiers.relu import ReLUSparsifier
from saev.ops.fused.rules import BatchTopKRule, Rule, TopKRule
from saev.ops.fused.threshold_rules import GatedRule, JumpRule, ReLURule


class OwnParameter(NamedTuple):
    """A parameter of the sparsifier, and the factor from it to what the rule reads."""

    parameter: nn.Parameter
    unit: Float[Tensor, ""] | float = 1.0


def own_parameters(sparsifier: Sparsifier[Any]) -> list[OwnParameter]:
    """In the order of `Rule.gradients`."""
    if isinstance(sparsifier, JumpReLUSparsifier):
        return [OwnParameter(sparsifier.theta, sparsifier.unit)]
    if isinstance(sparsifier, GatedSparsifier):
        return [OwnParameter(p) for p in (sparsifier.r, sparsifier.b_gate, sparsifier.b_mag)]
    return []


def rule_of(sparsifier: Sparsifier[Any], sparsity_factor: float, tokens: int) -> Rule:
    """The rule of a step with so many tokens, whose penalty is multiplied by this factor."""
    if isinstance(sparsifier, BatchTopKSparsifier):
        return BatchTopKRule(sparsifier.settings.k)
    if isinstance(sparsifier, JumpReLUSparsifier):
        settings = sparsifier.settings
        steered = settings.l0_target is not None and settings.tanh is None
        weight = sparsity_factor * (1.0 if steered else settings.sparsity)
        theta = sparsifier.threshold.detach()
        return JumpRule(theta, sparsifier.epsilon, weight, settings.l0_target, settings.tanh, tokens)
    if isinstance(sparsifier, GatedSparsifier):
        r, b_gate, b_mag = (p.detach() for p in (sparsifier.r, sparsifier.b_gate, sparsifier.b_mag))
        return GatedRule(r, b_gate, b_mag, sparsifier.coefficient * sparsity_factor, tokens)
    if isinstance(sparsifier, ReLUSparsifier):
        return ReLURule(sparsifier.coefficient * sparsity_factor, tokens)
    return TopKRule(sparsifier.settings.k)


def losses_of(rule: Rule, d_model: int) -> tuple[Float[Tensor, ""] | float, Float[Tensor, ""] | float]:
    """After a step: (the penalty, the auxiliary loss)."""
    if isinstance(rule, JumpRule):
        return rule.penalty()[0], 0.0
    if isinstance(rule, GatedRule):
        return rule.penalty(), rule.squared.mean() / d_model
    return (rule.penalty() if isinstance(rule, ReLURule) else 0.0), 0.0


@torch.no_grad()
def finish_step(sparsifier: Sparsifier[Any], rule: Rule, l0: Float[Tensor, ""], sparsity_factor: float) -> None:
    """Constraints, the learned threshold, and the penalty's controller."""
    if isinstance(sparsifier, BatchTopKSparsifier) and isinstance(rule, BatchTopKRule):
        sparsifier.update_threshold(rule.smallest[None])
    sparsifier.project()
    if sparsity_factor >= 1:
        sparsifier.update_controller(l0)
