"""Which members of a bank take fused steps."""

import functools
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from saev.nn.bank import TrainingMember
from saev.nn.sparsifiers import TopK
from saev.ops import collective, gpu
from saev.ops.fused.shapes import refusal as of_shape

if TYPE_CHECKING:
    from saev.training.bank.fused import FusedSteps

log = logging.getLogger(__name__)


def refusal(
    member: TrainingMember, device: torch.device, autocast: torch.dtype | None, optimiser: Optimizer
) -> str | None:
    """Why this member's steps are not fused, in a run under this autocast and with such an optimiser; None where they are.

    The first call for a shape compiles kernels, tests them and synchronises.
    """
    sae, settings = member.sae, member.sae.sparsifier.settings
    if autocast is not torch.bfloat16:
        return "trainer.precision is not bf16-mixed"
    if isinstance(settings, TopK) and settings.threshold:
        return "sae=topk with a threshold has no fused step"
    if sae.sparsifier.free_atoms:
        return "atom_norm=true leaves atoms their norms"
    if not isinstance(settings, TopK) and collective.world_size() > 1:
        return f"sae={settings.kind} has no fused step in several processes"
    if sae.archetypes is not None:
        return "its decoder is archetypal"
    if member.freeze != "none":
        return f"freeze={member.freeze}"
    if (of_optimiser := _of_optimiser(optimiser, optimiser.defaults)) is not None:
        return of_optimiser
    shape = (sae.d_model, sae.n_latents, getattr(settings, "k", min(32, sae.n_latents)))
    if (reason := of_shape(*shape)) is not None:
        return reason
    if not gpu.kernels(device):
        return f"there are no kernels for {device}"
    from saev.ops.fused.check import usable, usable_selections  # imports Triton, which not every machine has

    usable_here = usable(device, *shape, len(member.objective.ends(sae.n_latents)))
    if usable_here and not isinstance(settings, TopK):
        usable_here = usable_selections(device, sae.n_latents)
    return None if usable_here else f"its kernels do not work on {device}"


def _of_optimiser(optimiser: Optimizer, settings: Mapping[str, Any]) -> str | None:
    """Why Adam with these settings, of a group or defaults, is not stepped by our kernels."""
    if type(optimiser) is not torch.optim.Adam:
        return f"the optimiser is {type(optimiser).__name__}"
    for key in ("weight_decay", "amsgrad", "maximize"):
        if settings[key]:
            return f"optimiser.{key}={settings[key]}"
    if not (settings["fused"] or settings["capturable"]):
        return "the optimiser counts its steps on the host: optimiser.fused=true"
    return None


class Fusable:
    """Whether the steps of a bank's members are fused, and the object that takes them."""

    def __init__(self):
        self._taken: weakref.WeakKeyDictionary[TrainingMember, bool] = weakref.WeakKeyDictionary()

    def settle(
        self,
        members: Sequence[TrainingMember],
        device: torch.device,
        autocast: torch.dtype | None,
        optimiser: Optimizer,
        unanimous: Callable[[list[bool]], list[bool]],
    ) -> None:
        """Decide for all members, so that a step is fused in all processes or in none (`Division.unanimous`); log why it is not."""
        here = [
            member.products == "fused" and self._takes(member, refusal(member, device, autocast, optimiser))
            for member in members
        ]
        for member, mine, taken in zip(members, here, unanimous(here), strict=True):
            if mine and not taken:
                log.warning("%s: its steps are not fused: another process cannot take them", member.name)
            self._taken[member] = taken

    def takes(
        self, member: TrainingMember, device: torch.device, optimiser: Optimizer, group: Mapping[str, Any]
    ) -> bool:
        """Whether the member's `products` are fused and its steps can be, with the settings of its group of parameters, which a
        checkpoint may have replaced; the reason is logged where they cannot."""
        if member.products != "fused":
            return False
        if member not in self._taken:  # a bank that is stepped outside of a run
            autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
            self._taken[member] = self._takes(member, refusal(member, device, autocast, optimiser))
        if self._taken[member]:
            self._taken[member] = self._takes(member, _of_optimiser(optimiser, group))
        return self._taken[member]

    @staticmethod
    def _takes(member: TrainingMember, reason: str | None) -> bool:
        if reason is not None:
            log.warning("%s: its steps are not fused: %s", member.name, reason)
        return reason is None

    @functools.cached_property
    def steps(self) -> "FusedSteps":
        """The fused steps of all members; made where one takes them, because not every machine has Triton."""
        from saev.training.bank.fused import FusedSteps

        return FusedSteps()
