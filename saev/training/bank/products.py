"""Whether each member's products of sparse codes are computed sparse or dense, decided before the first step."""

import logging

import torch

from saev.nn.bank import TrainingMember
from saev.ops.choice import faster_path

log = logging.getLogger(__name__)
AUTOCAST = {"bf16-mixed": torch.bfloat16}


def choose_products(member: TrainingMember, products: str, rows: int, device: torch.device, precision: str) -> None:
    """Set `member.products` to the choice `products` of BankModule, for batches of `rows` tokens.

    A choice from a checkpoint is kept, unless `products` is sparse or dense: timings differ from run to run, results must not.
    """
    if products in ("sparse", "dense"):
        member.products = products
        return
    k = getattr(member.sae.sparsifier.settings, "k", None)
    if member.products != "auto" or k is None or (products == "auto" and device.type == "cpu"):
        return
    shape = (rows, member.sae.d_model, member.sae.n_latents, k)
    timed = faster_path(*shape, device, AUTOCAST.get(precision), len(member.objective.ends(member.sae.n_latents)))
    member.products = timed.path
    log.info(
        "%s: %s products: %.2f ms by pairs, %.2f ms by matrices (%d tokens, d_model %d, d_sae %d, k %d on %s)",
        member.name, timed.path, 1e3 * timed.sparse, 1e3 * timed.dense,
        rows, member.sae.d_model, member.sae.n_latents, k, device,
    )  # fmt: skip
