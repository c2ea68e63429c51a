"""Dictionaries -> their sparse codes on recorded activations, in folders that are complete or can be resumed.

dictionaries ──select_tokens──▶ one pass per recording and layer: batch ──sparse_codes──▶ a shard of each dictionary, in
<out>/<dataset>-<dictionary>-<hash8>
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from saev.codes.manifest import CodesManifest, identify
from saev.codes.pairs import sparse_codes
from saev.codes.settings import EncodeSettings
from saev.codes.store import CodeStore
from saev.codes.writer import CodeWriter
from saev.device import check_device, resolve_device
from saev.dictionary import Dictionary
from saev.locks import exclusive, part_of
from saev.progress import bar
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries, select_tokens, shared_passes
from saev.shards.manifest import FILE
from saev.shards.merging import sidecar_path
from saev.shards.selected_tokens import Selection

LOCKS = ".locks"  # the folder of lock files, in `out`
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


log = logging.getLogger(__name__)


def encode(
    dictionaries: Dictionaries,
    recording: Recording | None = None,
    settings: EncodeSettings = EncodeSettings(),  # noqa: B008 it is frozen
    *,
    layer: int | None = None,
    out: str | os.PathLike | None = None,
    activations: str | os.PathLike | None = None,
    progress: bool = False,
) -> list[CodeStore]:
    """The codes of each dictionary, in their order; encoded where `out` does not hold them yet. See `encode_part`."""
    directories = encode_part(
        dictionaries, recording, settings, layer=layer, out=out, activations=activations, progress=progress
    )
    return [CodeStore(directory) for directory in directories]


def encode_part(
    dictionaries: Dictionaries,
    recording: Recording | None = None,
    settings: EncodeSettings = EncodeSettings(),  # noqa: B008 it is frozen
    part: tuple[int, int] = (0, 1),
    *,
    layer: int | None = None,
    out: str | os.PathLike | None = None,
    activations: str | os.PathLike | None = None,
    progress: bool = False,
) -> list[Path]:
    """Encode part i of n, so that n jobs divide the work; the folder of each dictionary's codes, in their order.

    Args:
        dictionaries: folders of dictionaries, runs or sweeps, or a mapping of names to dictionaries in memory.
        recording, layer: the activations; None: those that each dictionary was trained on.
        out: each dictionary's codes get a folder in it; None: $SAEV_OUTPUTS/codes.
        activations: the folder of recordings where `recording` is None; None: $SAEV_OUTPUTS/activations.

    Raises ValueError, before anything is encoded, for what does not fit.
    """
    check_device(settings.device)
    out = Path(os.environ.get("SAEV_OUTPUTS", "outputs"), "codes") if out is None else Path(out)
    saved = {one.name: one for one in find_dictionaries(dictionaries)}
    selections = {
        name: select_tokens(one, recording, activations, layer, settings.tokens, settings.examples)
        for name, one in saved.items()
    }
    device, directories = resolve_device(settings.device), {}
    for group in shared_passes(selections):
        manifests = {
            name: CodesManifest.of(identify(saved[name]), saved[name].config["n_latents"], selections[name], settings)
            for name in group
        }
        directories |= {name: out / manifest.name for name, manifest in manifests.items()}
        distinct = {directories[name]: name for name in reversed(group)}  # copies have the same codes
        with ExitStack() as locked:
            for directory in sorted(distinct):  # in one order, so that two commands never block each other
                locked.enter_context(part_of(out / LOCKS, directory.name, *part))
            names = {name for directory, name in distinct.items() if is_pending(directory, settings.views)}
            pending = [saved[name] for name in group if name in names]
            if pending:
                encode_pass(pending, manifests, selections[group[0]], settings, part, device, out, progress)
    return [directories[name] for name in saved]


def encode_pass(
    pending: Sequence[SavedDictionary],
    manifests: Mapping[str, CodesManifest],
    selection: Selection,
    settings: EncodeSettings,
    part: tuple[int, int],
    device: str,
    out: Path,
    progress: bool,
) -> None:
    """Encode this part by these dictionaries, holding their locks; finalise the codes that are complete then."""
    members = {one.name: one.load(device) for one in pending}
    active = {name: density(member, selection, settings.most) for name, member in members.items()}
    if settings.latent_topk is None:
        for name, fraction in active.items():
            refuse_dense(name, fraction)
    check_disk(out, {name: manifests[name] for name in members}, active, selection, part)
    writers = {name: CodeWriter(out, manifests[name], selection, settings.views) for name in members}
    shards = set().union(*(writer.pending(*part) for writer in writers.values()))
    total = int(selection.rows[sorted(shards)].sum())
    if total:
        log.info("%s layer %d, %d tokens: %s", selection.store.name, selection.layer, total, "; ".join(members))
    with bar("Encoding", total, visible=progress) as advance:
        try:
            encode_shards(members, writers, selection, settings.most, part, settings.batch_size, advance)
        except KeyboardInterrupt:
            log.info("interrupted; the same command resumes after the last complete shard")
            raise
    for writer in writers.values():
        with exclusive(out / LOCKS / f"{writer.root.name}-finish"):  # parts that end together: one after the other
            finished = writer.finish()
        if not finished:
            log.info("part %d/%d is done; %s is complete when the others are", *part, writer.root)


def check_disk(
    out: Path,
    manifests: Mapping[str, CodesManifest],
    active: Mapping[str, float],
    selection: Selection,
    part: tuple[int, int],
) -> None:
    """ValueError where the disk has no room for the shards left to encode, with this fraction of codes active."""
    out.mkdir(parents=True, exist_ok=True)
    needed = 0.0
    for name, manifest in manifests.items():
        shards = range(part[0], len(selection.rows), part[1])
        pending = [i for i in shards if not sidecar_path(out / manifest.name, i).is_file()]
        row = 8 + (4 + np.dtype(manifest.dtype).itemsize) * active[name] * manifest.n_latents
        needed += int(selection.rows[pending].sum()) * row
    free = shutil.disk_usage(out).free
    if needed > free:
        raise ValueError(
            f"out={out} has {free / 1e9:.3g} GB free, the codes need about {needed / 1e9:.3g} GB: choose another "
            "disk (out=/big/disk), fewer dictionaries, or latent_topk=."
        )


def is_pending(directory: Path, views: Collection[str]) -> bool:
    """Whether there are no complete codes yet; ValueError for complete ones without all of `views`."""
    if not (directory / FILE).is_file() or not (manifest := CodesManifest.load(directory)).complete:
        return True
    if missing := [view for view in views if view not in manifest.views]:
        raise ValueError(
            f"{directory} was encoded with views={list(manifest.views)}, without {', '.join(missing)}: delete it, or encode into "
            "another folder, out=/a/folder."
        )
    return False
