"""One pass over recorded activations that writes the codes of several dictionaries.

Selection ──batch──▶ sparse_codes, per dictionary ──pairs──▶ its shard: CSR arrays, statistics
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float

from saev.codes.pairs import sparse_codes
from saev.codes.writer import CodeWriter
from saev.dictionary import Dictionary
from saev.shards.selected_tokens import Selection

DENSE = 0.1  # fraction of active codes from which a dictionary counts as dense


@torch.inference_mode()
def encode_shards(
    members: Mapping[str, Dictionary],
    writers: Mapping[str, CodeWriter],
    selection: Selection,
    most: int | None = None,
    part: tuple[int, int] = (0, 1),
    batch_size: int = 4096,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Encode the missing shards of this part, each of them for all dictionaries at once.

    The dictionaries are on one device; `advance` is called with the tokens of every batch. Memory: two windows of four
    batches of activations, and one dictionary's codes of a batch. An exception, Ctrl-C too, keeps every complete shard.
    """
    pending = {name: {*writer.pending(*part)} for name, writer in writers.items()}
    for shard in sorted(set().union(*pending.values())):
        with ExitStack() as stack:
            outs = {n: stack.enter_context(writers[n].shard(shard)) for n in members if shard in pending[n]}
            for batch in selection.batches(shard, batch_size):
                x = on_device(batch, next(iter(members.values())))
                for name, out in outs.items():
                    out.add(sparse_codes(members[name], x, most), batch["example"], batch["token"])
                advance(len(x))


def pending_tokens(writers: Mapping[str, CodeWriter], selection: Selection, part: tuple[int, int]) -> int:
    """Tokens that `encode_shards` would read."""
    shards = set().union(*(writer.pending(*part) for writer in writers.values()))
    return int(selection.rows[sorted(shards)].sum())


@torch.inference_mode()
def density(dictionary: Dictionary, selection: Selection, most: int | None, batch_size: int = 1024) -> float:
    """Fraction of codes that are not 0, over the selection's first `batch_size` tokens."""
    x = on_device(selection.first_batch(batch_size), dictionary)
    return len(sparse_codes(dictionary, x, most).latents) / (len(x) * dictionary.n_latents)


def refuse_dense(name: str, fraction: float) -> None:
    """ValueError where this fraction of active codes means that the dictionary is dense."""
    if fraction > DENSE:
        raise ValueError(
            f"{name} is dense, {fraction:.0%} of its codes are not 0: keep the largest of each token, latent_topk=64, or "
            "write them all, latent_topk=all."
        )


def on_device(batch: Mapping[str, Any], dictionary: Dictionary) -> Float[torch.Tensor, "batch d_model"]:
    """A batch's activations in float32, on the dictionary's device."""
    return torch.from_numpy(batch["acts"]).to(dictionary.atoms.device).float()
