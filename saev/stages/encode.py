"""saev encode: dictionaries -> their sparse codes on recorded activations. Prints the directories."""

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.codes.encoding import density, encode, refuse_dense, tokens_to_do
from saev.codes.manifest import CodesManifest, Layout
from saev.codes.selection import Selection
from saev.codes.writer import CodeWriter
from saev.device import check_device, resolve_device
from saev.locks import exclusive, part_of
from saev.progress import bar
from saev.saved import SavedDictionary, find_dictionaries
from saev.shards.manifest import FILE
from saev.shards.merging import sidecar_path
from saev.stages.evaluate import EXAMPLES, plan, together
from saev.vits.precheck import parse_part

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """What `run` does to dictionaries that share a pass."""

    found: Sequence[SavedDictionary]
    selection: Selection
    layout: Layout
    part: tuple[int, int]
    batch_size: int
    device: str
    out: Path

    @property
    def locks(self) -> Path:
        """The folder of lock files."""
        return self.out / ".locks"


def run(cfg: DictConfig) -> list[Path]:
    """Encode by the named dictionaries what is not encoded yet; the directory of each one's codes, in their order."""
    layout, part = check(cfg)
    found = {one.name: one for one in find_dictionaries([str(path) for path in cfg.dictionaries])}
    work = {name: plan(cfg, one) for name, one in found.items()}
    for job in work.values():
        job["tokens"] = cfg.tokens or job["tokens"]
        job["store"].role_slice(job["tokens"])
    directories: dict[str, Path] = {}
    for group in together(work):
        shared = work[group[0]]
        selection = Selection(
            shared["store"], shared["layer"], shared["images"], shared["tokens"], tuple(shared["ignore_labels"])
        )
        members = [found[name] for name in group]
        device = resolve_device(cfg.device)
        directories |= encode_group(Job(members, selection, layout, part, cfg.batch_size, device, Path(cfg.out)))
    for name in found:
        print(directories[name])
    return [directories[name] for name in found]


def check(cfg: DictConfig) -> tuple[Layout, tuple[int, int]]:
    """(how codes are stored, part); ValueError for values out of bounds, before anything is loaded."""
    if cfg.examples not in EXAMPLES:
        raise ValueError(f"examples={cfg.examples}: choose {' or '.join(EXAMPLES)}.")
    if cfg.batch_size < 1:
        raise ValueError(f"batch_size={cfg.batch_size}: give at least 1.")
    check_device(str(cfg.device), "device")
    layout = instantiate(cfg.codes)
    layout.check()
    return layout, parse_part(str(cfg.part), "part")


def encode_group(job: Job) -> dict[str, Path]:
    """Encode by dictionaries that see the same tokens, in one pass; the directory of each one's codes by its name."""
    manifests = {
        one.name: CodesManifest.of(one.path, one.config["n_latents"], job.selection, job.layout) for one in job.found
    }
    directories = {name: job.out / manifest.name for name, manifest in manifests.items()}
    distinct = {directory: name for name, directory in reversed(directories.items())}  # copies have the same codes
    with ExitStack() as held:
        for directory in sorted(distinct):  # always in one order: two commands never wait for each other
            held.enter_context(part_of(job.locks, directory.name, *job.part))
        todo = [one for one in job.found if one.name in distinct.values() and is_pending(directories[one.name])]
        if todo:
            encode_pending(job, todo, manifests)
    return directories


def encode_pending(job: Job, todo: Sequence[SavedDictionary], manifests: Mapping[str, CodesManifest]) -> None:
    """Encode this part by these dictionaries, which nobody else does meanwhile; finish what is then whole."""
    members = {one.name: one.load(job.device) for one in todo}
    shares = {name: density(member, job.selection, job.layout.most) for name, member in members.items()}
    if job.layout.latent_topk is None:
        for name, share in shares.items():
            refuse_dense(name, share)
    check_room(job, manifests, shares)
    writers = {name: CodeWriter(job.out, manifests[name], job.selection.runs, job.selection.rows) for name in members}
    total = tokens_to_do(writers, job.selection, job.part)
    if total:
        log.info("%s layer %d, %d tokens: %s", job.selection.store.name, job.selection.layer, total, "; ".join(members))
    with bar("Encoding", total) as advance:
        try:
            encode(members, writers, job.selection, job.layout.most, job.part, job.batch_size, advance)
        except KeyboardInterrupt:
            log.info("interrupted; the same command goes on at the last whole shard")
            raise
    for writer in writers.values():
        with exclusive(job.locks / f"{writer.root.name}-finish"):  # parts that end together: one after the other
            finished = writer.finish()
        if not finished:
            log.info("part %d/%d is done; %s is complete when the others are", *job.part, writer.root)


def is_pending(directory: Path) -> bool:
    """Whether there are no complete codes yet."""
    return not (directory / FILE).is_file() or not CodesManifest.load(directory).complete


def check_room(job: Job, manifests: Mapping[str, CodesManifest], shares: Mapping[str, float]) -> None:
    """ValueError where the disk has not the room for what is left to encode, with this fraction of codes active."""
    job.out.mkdir(parents=True, exist_ok=True)
    pair = 4 + np.dtype(job.layout.dtype).itemsize
    number, n_parts = job.part
    needed = 0.0
    for name, share in shares.items():
        own = job.out / manifests[name].name
        left = [i for i in range(number, len(job.selection.rows), n_parts) if not sidecar_path(own, i).is_file()]
        needed += int(job.selection.rows[left].sum()) * (8 + pair * share * manifests[name].n_latents)
    free = shutil.disk_usage(job.out).free
    if needed > free:
        raise ValueError(
            f"out={job.out} has {free / 1e9:.3g} GB free, the codes need about {needed / 1e9:.3g} GB: choose another disk "
            "(out=/big/disk), fewer dictionaries, or latent_topk=."
        )
