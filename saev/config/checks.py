"""What can be known to be wrong before anything slow starts; each ValueError names the key, the value and the remedy."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from saev.config.members import Planned
from saev.runs.planning import key_of
from saev.shards import ActivationStore
from saev.shards.reader import ROLES

log = logging.getLogger(__name__)


class Facts(NamedTuple):
    """What is known of the activations before they are read, or even recorded."""

    roles: Mapping[str, int]  # tokens per image; 0 where images differ
    n_images: int
    d_model: int


def check_trainer(trainer: DictConfig, here: bool = True) -> None:
    """A device that is there (where the job runs `here`), and several processes only with the strategy made for banks."""
    if here and trainer.accelerator in ("gpu", "cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                f"trainer.accelerator={trainer.accelerator}: this machine has no CUDA GPU; use trainer=cpu."
            )
    if not isinstance(trainer.devices, int) or trainer.devices < 1:
        raise ValueError(
            f"trainer.devices={trainer.devices}: give the number of processes, e.g. trainer=ddp trainer.devices=2."
        )
    if trainer.devices * trainer.num_nodes > 1 and "strategy" not in trainer:
        raise ValueError(f"trainer.devices={trainer.devices}: several processes need trainer=ddp.")


def check_division(cfg: DictConfig, n_members: int) -> None:
    """The batch, or the members, can be divided among the processes."""
    processes = cfg.trainer.devices * cfg.trainer.num_nodes
    if processes == 1 and cfg.datamodule.parts is None:
        return
    from datamodules.parts import parts_of  # Lightning, which a run of one process need not wait for
    from saev.training.bank.ddp import check_members

    by_members = OmegaConf.select(cfg.trainer, "strategy.split") == "members"
    parts_of(cfg.datamodule.parts, 1 if by_members else processes, cfg.batch_size)
    if by_members:
        check_members(processes, n_members)


def data_facts(cfg: DictConfig, recording: Any) -> Facts:
    """What the dataset, or the recording that is to make it, will give; ValueError where it cannot be used."""
    if cfg.dataset is not None:
        store = ActivationStore(cfg.dataset)
        store.resolve_layer(cfg.layer)
        store.role_slice(cfg.tokens)
        return Facts(store.manifest.roles, store.manifest.n_examples, store.d_model)
    recording.check()
    facts = Facts(recording.plan.roles, recording.plan.n_images, recording.plan.shape.d_model)
    if not any(role in facts.roles for role in ROLES[cfg.tokens]):
        wanted = ",".join(dict.fromkeys([*ROLES[cfg.tokens], *facts.roles]))
        raise ValueError(
            f"tokens={cfg.tokens}: record.tokens=[{','.join(facts.roles)}] does not record them; add record.tokens=[{wanted}]."
        )
    return facts


def check_members(cfg: DictConfig, planned: Sequence[Planned], facts: Facts) -> None:
    """The members fit the activations, and these are enough for a batch."""
    per_image = sum(facts.roles.get(role, 0) for role in ROLES[cfg.tokens])
    known = min(facts.roles.values()) > 0  # else images differ in their number of tokens
    n_tokens = facts.n_images * per_image * (1 - cfg.datamodule.val_fraction) if known else math.inf
    for plan in planned:
        try:
            plan.spec.width(facts.d_model)
            plan.spec.check_tokens(facts.d_model, min(n_tokens, cfg.subset_tokens or math.inf))
        except ValueError as error:
            raise ValueError(f"{plan.spec.name}: {error}") from error
    if known and cfg.batch_size > facts.n_images * per_image:
        raise ValueError(
            f"batch_size={cfg.batch_size} is larger than the {facts.n_images * per_image} tokens of {facts.n_images} images: "
            "lower batch_size or take more images."
        )


def check_probe(cfg: DictConfig, recording: Any, facts: Facts) -> None:
    """The activations that `probe.dataset` names have labels, and are like those that are trained on."""
    wanted = cfg.probe.dataset
    if wanted is None:
        return
    from saev.probing.data.sample import TRAIN, labelled_store  # torch, which most runs need not wait for here
    from saev.vits.activation_site import differences

    if wanted == TRAIN and cfg.dataset is None:
        if recording.plan.labelling is None:
            raise ValueError(
                f"probe.dataset={wanted}: images of kind {recording.images.kind} have no masks, so their patches no labels; take "
                "images=segmentation, or name a recording with labels, probe.dataset=/path/to/recording."
            )
        return
    store = labelled_store(cfg.dataset if wanted == TRAIN else wanted, cfg.layer, cfg.tokens, facts.d_model)
    ours = recording.plan.meaning if cfg.dataset is None else ActivationStore(cfg.dataset).manifest.meaning
    one, other = ({**meaning.get("vit", {}), "hook": meaning.get("hook")} for meaning in (ours, store.manifest.meaning))
    if differ := differences(one, other):
        log.warning(
            "probe.dataset=%s is of another backbone or hook than what is trained on (%s)", wanted, ", ".join(differ)
        )


def warn_unused(cfg: DictConfig, overrides: Sequence[str], planned: Sequence[Planned]) -> None:
    """Say which settings have no effect in this run."""
    if cfg.dataset is not None:
        idle = [o for o in overrides if key_of(o) in ("images", "vit", "record")]
        if idle:
            log.warning("%s: no effect beside dataset=%s, which is already recorded", ", ".join(idle), cfg.dataset)
    if cfg.products == "measured":
        idle = [p.spec.name for p in planned if not hasattr(p.spec.sparsifier, "k")]
        if idle:
            log.warning("products=measured: no effect on %s, which have no k", idle)
    late = [
        p.spec.name
        for p in planned
        if cfg.n_tokens and p.spec.auxk.coefficient and p.spec.auxk.dead_tokens >= cfg.n_tokens
    ]
    if late:
        log.warning(
            "dead_tokens is not below n_tokens=%d: no latent of %s will count as dead or be revived", cfg.n_tokens, late
        )
