"""Validate the jobs of a sweep before the first is launched, and estimate the memory of their members."""

import os

from omegaconf import DictConfig, OmegaConf

from saev.config.train_job import n_processes, prepare
from saev.runs.memory import Size, member_size

GIB = 2**30
USABLE = 0.9  # fraction of a device's memory; the rest is left to the allocator


def member_sizes(verb: str, cfg: DictConfig, here: bool) -> list[Size]:
    """The memory of each member of a job of `saev <verb>`; ValueError where the job would be refused.

    `here`: the jobs run on this machine, so its devices are checked.
    """
    if verb == "fit":
        from saev.config import fit_job

        return fit_job.member_sizes(fit_job.prepare(cfg, here))
    job = prepare(cfg, here)
    by_members = OmegaConf.select(cfg.trainer, "strategy.split") == "members"  # then each process takes whole batches
    batch = job.settings.batch // (1 if by_members else n_processes(cfg.trainer))
    d_model, half = job.facts.d_model, str(cfg.trainer.precision).startswith("bf16")
    widths = [member.width(d_model) for member in job.members]
    return [
        member_size(d_model, width, batch, len(m.objective.ends(width)), m.sparsifier.peak_matrices, half)
        for m, width in zip(job.members, widths, strict=True)
    ]


def memory_here(cfg: DictConfig) -> int:
    """Bytes that a bank may use on this machine, of its GPU if the job uses one."""
    import torch

    device = OmegaConf.select(cfg, "trainer.accelerator") or str(OmegaConf.select(cfg, "device"))
    if device.partition(":")[0] in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return int(USABLE * torch.cuda.get_device_properties(0).total_memory)
    return int(USABLE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
