"""How each member's steps are computed, by sparse or dense products or fused, decided before the first one."""

import logging

import torch
from torch.optim import Optimizer

from saev.nn.bank import TrainingMember
from saev.ops.choice import faster_path
from saev.training.bank.fusable import refusal

log = logging.getLogger(__name__)
AUTOCAST = {"bf16-mixed": torch.bfloat16}


def choose_products(
    member: TrainingMember, products: str, rows: int, device: torch.device, precision: str, optimiser: Optimizer
) -> None:
    """Set `member.products` to the choice `products` of BankModule, for batches of `rows` tokens.

    A choice from a checkpoint is kept, unless `products` names one: timings differ from run to run, results must not. ValueError where
    fused steps are asked for and this member cannot take them.
    """
    if products in ("sparse", "dense"):
        member.products = products
        return
    dtype = AUTOCAST.get(precision)
    if products == "fused":
        if (reason := refusal(member, device, dtype, optimiser)) is not None:
            raise ValueError(f"products=fused: {member.name}: {reason}; set products=auto.")
        member.products = "fused"
        return
    k = getattr(member.sae.sparsifier.settings, "k", None)
    if member.products != "auto" or (products == "auto" and device.type == "cpu"):
        return
    if k is None:  # each step is fused unless its codes are too many
        if device.type == "cuda" and refusal(member, device, dtype, optimiser) is None:
            member.products = "fused"
        return
    shape, prefixes = (
        (rows, member.sae.d_model, member.sae.n_latents, k),
        len(member.objective.ends(member.sae.n_latents)),
    )
    reason = refusal(member, device, dtype, optimiser)
    timed = faster_path(*shape, device, dtype, prefixes, reason is None)
    member.products = timed.path
    log.info(
        "%s: %s: decoding and gradients take %.2f ms by pairs, %.2f ms by matrices, %s "
        "(%d tokens, d_model %d, d_sae %d, k %d on %s)",
        member.name, timed.path, 1e3 * timed.sparse, 1e3 * timed.dense,
        f"not fused: {reason}" if timed.fused is None else f"{1e3 * timed.fused:.2f} ms fused", *shape, device,
    )  # fmt: skip
