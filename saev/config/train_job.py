"""A training job: built from its configuration and validated before anything slow starts.

Each ValueError names the key, the value and the remedy.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from saev.config.build import build
from saev.config.members import plan_members
from saev.nn import Member
from saev.runs.planning import key_of
from saev.shards import ActivationStore
from saev.shards.reader import ROLES
from saev.training.settings import FEW_STEPS, StreamSettings, TrainSettings

log = logging.getLogger(__name__)


class DataFacts(NamedTuple):
    """Properties of the activations that are known before they are read, or even recorded."""

    roles: Mapping[str, int]  # tokens per image by role; 0 where images differ
    n_images: int
    d_model: int


class TrainJob(NamedTuple):
    """What a job trains on what; `recording` makes the dataset where the configuration names none."""

    settings: TrainSettings
    members: list[Member]
    recording: Any
    facts: DataFacts


def prepare(cfg: DictConfig, here: bool = True) -> TrainJob:
    """The job of a configuration; ValueError for everything that can be refused before it starts.

    `here`: the job runs on this machine, so its devices are checked.
    """
    settings = build(TrainSettings, cfg)
    check_trainer(cfg.trainer, here)
    for key in ("batch_size", "n_tokens"):
        if cfg.datamodule[key] != cfg[key]:
            raise ValueError(f"datamodule.{key}={cfg.datamodule[key]} has no effect: set {key}={cfg.datamodule[key]}.")
    members = plan_members(cfg)
    recording = instantiate(cfg.record) if cfg.dataset is None else None
    live = cfg.datamodule.reader == "live"
    facts = data_facts(cfg.dataset, recording, cfg.layer, settings, live)
    available = training_tokens(facts, settings, cfg.datamodule.val_fraction)
    settings = settings.sized(available)
    check_division(cfg, settings.batch, len(members))
    check_members(members, facts, settings, available)
    check_probe(cfg, recording, facts, settings)
    return TrainJob(settings, members, recording, facts)


def n_processes(trainer: DictConfig) -> int:
    """How many processes the configured trainer runs, over all nodes."""
    return int(trainer.devices) * int(trainer.num_nodes)


def check_trainer(trainer: DictConfig, here: bool = True) -> None:
    """ValueError for a GPU that is not there, or for several processes without the strategy made for banks."""
    if here and trainer.accelerator in ("gpu", "cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                f"trainer.accelerator={trainer.accelerator}: this machine has no CUDA GPU; use trainer=cpu."
            )
    if not isinstance(trainer.devices, int) or trainer.devices < 1:
        raise ValueError(
            f"trainer.devices={trainer.devices}: must be the number of processes, e.g. trainer=ddp trainer.devices=2."
        )
    if n_processes(trainer) > 1 and "strategy" not in trainer:
        raise ValueError(f"trainer.devices={trainer.devices}: several processes need trainer=ddp.")


def check_division(cfg: DictConfig, batch: int, n_members: int) -> None:
    """ValueError where neither the batch nor the members can be divided among the processes."""
    processes = n_processes(cfg.trainer)
    if processes == 1 and cfg.datamodule.parts is None:
        return
    from datamodules.parts import parts_of  # imports Lightning, which a run of one process does not need here
    from saev.training.bank.ddp import check_members

    by_members = OmegaConf.select(cfg.trainer, "strategy.split") == "members"
    parts_of(cfg.datamodule.parts, 1 if by_members else processes, batch)
    if by_members:
        check_members(processes, n_members)


def data_facts(
    dataset: str | None, recording: Any, layer: int, settings: StreamSettings, live: bool = False
) -> DataFacts:
    """Facts of the dataset, or of the recording that will make it (`live`: would make it); ValueError where it cannot be used."""
    if dataset is not None:
        if live:
            raise ValueError(f"datamodule.reader=live: dataset={dataset} is recorded already; leave one of them out.")
        store = ActivationStore(dataset)
        store.resolve_layer(layer)
        store.role_slice(settings.tokens)
        return DataFacts(store.manifest.roles, store.manifest.n_examples, store.d_model)
    if live:
        from saev.vits.live import check_live

        check_live(recording)
    else:
        recording.check()
    facts = DataFacts(recording.plan.roles, recording.plan.n_images, recording.plan.shape.d_model)
    if not any(role in facts.roles for role in ROLES[settings.tokens]):
        roles = ",".join(dict.fromkeys([*ROLES[settings.tokens], *facts.roles]))
        raise ValueError(
            f"tokens={settings.tokens}: record.tokens=[{','.join(facts.roles)}] does not record them; add record.tokens=[{roles}]."
        )
    return facts


def training_tokens(facts: DataFacts, settings: StreamSettings, val_fraction: float) -> float:
    """The tokens of the images that are not held out; inf where images differ in their number of tokens."""
    if min(facts.roles.values()) <= 0:
        return math.inf
    return facts.n_images * sum(facts.roles.get(role, 0) for role in ROLES[settings.tokens]) * (1 - val_fraction)


def check_members(members: Sequence[Member], facts: DataFacts, settings: TrainSettings, n_tokens: float) -> None:
    """ValueError where a member does not fit the activations, or their `n_tokens` training tokens do not fill a batch."""
    for member in members:
        try:
            member.width(facts.d_model)
            member.check_tokens(facts.d_model, min(n_tokens, settings.subset_tokens or math.inf))
        except ValueError as error:
            raise ValueError(f"{member.name}: {error}") from error
    per_image = sum(facts.roles.get(role, 0) for role in ROLES[settings.tokens])
    if n_tokens < math.inf and settings.batch > facts.n_images * per_image:
        raise ValueError(
            f"batch_size={settings.batch} is larger than the {facts.n_images * per_image} tokens of {facts.n_images} "
            "images: lower batch_size or take more images."
        )


def check_probe(cfg: DictConfig, recording: Any, facts: DataFacts, settings: TrainSettings) -> None:
    """ValueError where the activations that `probe.dataset` names have no labels or another width."""
    dataset = settings.probe.dataset
    if dataset is None:
        return
    from saev.probing.sample import TRAIN, labelled_store  # torch, which most runs do not need here
    from saev.vits.activation_site import differences

    if dataset == TRAIN and cfg.datamodule.reader == "live":
        raise ValueError(
            "probe.dataset=train: with datamodule.reader=live no labels are stored; name a recording with labels, "
            "probe.dataset=/path/to/recording."
        )
    if dataset == TRAIN and cfg.dataset is None:
        if recording.plan.labelling is None:
            raise ValueError(
                f"probe.dataset={dataset}: images of kind {recording.images.kind} have no masks, so their patches have no labels; "
                "take images=segmentation, or name a recording with labels, probe.dataset=/path/to/recording."
            )
        return
    store = labelled_store(cfg.dataset if dataset == TRAIN else dataset, cfg.layer, settings.tokens, facts.d_model)
    trained = recording.plan.meaning if cfg.dataset is None else ActivationStore(cfg.dataset).manifest.meaning
    one, other = ({**m.get("vit", {}), "hook": m.get("hook")} for m in (trained, store.manifest.meaning))
    if differ := differences(one, other):
        log.warning(
            "probe.dataset=%s is of another backbone or hook than what is trained on (%s)", dataset, ", ".join(differ)
        )


def warn_unused(cfg: DictConfig, overrides: Sequence[str], job: TrainJob) -> None:
    """Warn of settings that have no effect in this run."""
    if cfg.dataset is not None:
        unused = [o for o in overrides if key_of(o) in ("vit", "record")]
        if unused:
            log.warning("%s: no effect beside dataset=%s, which is already recorded", ", ".join(unused), cfg.dataset)
    n_tokens = job.settings.n_tokens
    if n_tokens is None:
        return
    if (steps := n_tokens // job.settings.batch) < FEW_STEPS:
        log.warning(
            "n_tokens=%d makes %d steps of batch_size=%d, too few to train: set batch_size=%d, or n_tokens=%d",
            n_tokens, max(1, steps), job.settings.batch, max(1, n_tokens // FEW_STEPS), FEW_STEPS * job.settings.batch,
        )  # fmt: skip
    if job.settings.warmup >= max(1, steps):
        log.warning(
            "warmup=%g steps, the run has %d: the learning rate never arrives; set warmup=0.05",
            job.settings.warmup,
            steps,
        )
    if late := [m.name for m in job.members if m.auxk.coefficient and m.auxk.window(n_tokens) >= n_tokens]:
        log.warning(
            "dead_tokens is not below n_tokens=%d: no latent of %s will count as dead or be revived; set dead_tokens=%d, or "
            "null for a tenth of the run",
            n_tokens,
            ", ".join(late),
            max(1, n_tokens // 10),
        )
