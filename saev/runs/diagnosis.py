"""The checks of `saev doctor PATH`: a recording, codes, a dictionary, a run or a sweep. They read only."""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from saev.codes.manifest import KIND as CODES
from saev.codes.store import CodeStore
from saev.files import read_parquet
from saev.runs.ledger import CHECKPOINT, ERROR, RESULTS, Sweep
from saev.runs.ledger import FILE as SWEEP
from saev.shards import ActivationStore, Manifest
from saev.shards.manifest import FILE as MANIFEST
from saev.shards.verify import index_faults
from saev.shards.writer import EXAMPLES

AGAIN = "restore the file, or delete the directory and record again"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    what: str
    found: str
    remedy: str = ""
    fault: bool = False


def check_path(path: Path) -> list[Finding]:
    """The findings about whatever is at `path`, at least one."""
    if not path.is_dir():
        return [Finding(str(path), "there is no such directory", "check the path", fault=True)]
    if (path / MANIFEST).is_file():
        return list(check_codes(path) if holds_codes(path) else check_recording(path))
    if (path / "config.json").is_file() or (path / "dictionary.safetensors").is_file():
        return [check_dictionary(path)]
    if (path / SWEEP).is_file():
        return [finding for run in Sweep.load(path).jobs for finding in check_run(path / run)]
    if (path / RESULTS).is_file() or (path / ".hydra").is_dir() or (path / CHECKPOINT).is_file():
        return list(check_run(path))
    runs = sorted(p for p in path.iterdir() if (p / ".hydra").is_dir())
    if runs:
        return [finding for run in runs for finding in check_run(run)]
    remedy = f"give a directory with {MANIFEST}, dictionary.safetensors, or a run's .hydra"
    return [Finding(str(path), "is no recording, dictionary, run or sweep", remedy, fault=True)]


def check_recording(path: Path) -> Iterator[Finding]:
    """Is the recording complete, are its shards unchanged (sha256), can its statistics and its table be read?"""
    name = f"recording {path.name}"
    import polars as pl
    from safetensors import SafetensorError

    try:
        store = ActivationStore(path)
    except ValueError as error:
        yield Finding(name, *_split(error), fault=True)
        return
    manifest: Manifest = store.manifest
    size = sum(entry["bytes"] for entry in manifest.shards)
    yield Finding(
        name,
        f"layers {', '.join(map(str, store.layers))}; {manifest.n_examples} images, {manifest.n_tokens} tokens of {store.d_model} "
        f"{manifest.dtype} per layer; {size / 1e9:.2f} GB",
    )
    faults = [Finding(name, fault, AGAIN, fault=True) for fault in store.verify()]
    if faults:  # further faults would follow from these
        yield from faults
        return
    yield Finding(name, f"{len(manifest.shards)} shards as recorded (sha256)")
    for fault in index_faults(path, manifest):
        yield Finding(
            name,
            fault,
            "open the dataset where it can be written, as any training run does: the index is rebuilt",
            fault=True,
        )
    for check in (*(partial(read_first, store, layer) for layer in store.layers), lambda: store.token_labels):
        try:
            check()
        except (ValueError, OSError, SafetensorError) as error:
            fault, remedy = _split(error)
            yield Finding(name, fault, remedy or AGAIN, fault=True)
    try:
        failed = store.examples.filter(store.examples["n_tokens"] == 0)
    except (OSError, pl.exceptions.PolarsError) as error:
        yield Finding(name, f"{EXAMPLES} cannot be read ({error})", AGAIN, fault=True)
        return
    if len(failed):
        first = f"{failed['path'][0]}: {failed['error'][0]}"
        yield Finding(name, f"{len(failed)} images could not be read, the first: {first}")


def read_first(store: ActivationStore, layer: int) -> None:
    """Read a layer's statistics, offsets and first image; raises what these raise."""
    store.moments(layer)
    store.offsets(layer)
    store.read(layer, 0)


def holds_codes(path: Path) -> bool:
    """Whether the manifest is one of codes; an unreadable one counts as a recording's."""
    try:
        return json.loads((path / MANIFEST).read_text()).get("kind") == CODES
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        return False


def check_codes(path: Path) -> Iterator[Finding]:
    """Are the codes complete, and their files unchanged (sha256)?"""
    name = f"codes {path.name}"
    try:
        store = CodeStore(path)
    except ValueError as error:
        yield Finding(name, *_split(error), fault=True)
        return
    faults = store.verify()
    for fault in faults:
        yield Finding(name, fault, "delete the directory and encode again", fault=True)
    if not faults:
        yield Finding(name, f"{len(store)} tokens, codes over {store.n_latents} latents")


def check_dictionary(path: Path) -> Finding:
    """Does the saved dictionary load, and are its weights finite?"""
    import torch
    from safetensors import SafetensorError

    from saev.checkpoint import load, read_config

    name = f"dictionary {path.name}"
    try:
        dictionary = load(path)
        config = read_config(path)
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        fault, remedy = _split(error)
        return Finding(name, fault, remedy or "restore the directory, or train it again", fault=True)
    if not torch.isfinite(dictionary.atoms).all():
        return Finding(name, "its atoms are not finite", "train it again with a lower lr", fault=True)
    provenance = config.get("provenance", {})
    origin = f"; trained on {provenance['dataset']}, layer {provenance['layer']}" if "layer" in provenance else ""
    return Finding(
        name,
        f"{config['sparsifier']['kind']}, {dictionary.n_latents} latents of {dictionary.d_model} dimensions{origin}",
    )


def check_run(path: Path) -> Iterator[Finding]:
    """Has the run finished, can it be resumed, which of its SAEs failed or do not load?"""
    import polars as pl

    name = f"run {path.name}"
    if not (path / RESULTS).is_file():
        if (path / CHECKPOINT).is_file():
            yield Finding(name, "unfinished, with a checkpoint", f"resume: saev train ckpt_path={path}")
        elif (path / ERROR).is_file():
            error = (path / ERROR).read_text().strip()
            remedy = "correct that and start it again, or delete it"
            yield Finding(name, f"failed before its first checkpoint: {error}", remedy, fault=True)
        else:
            yield Finding(name, "unfinished, without a checkpoint", "delete it and start it again", fault=True)
        return
    try:
        table = read_parquet(path / RESULTS)
    except pl.exceptions.PolarsError as error:
        yield Finding(name, f"{RESULTS} cannot be read: {error}", "train again", fault=True)
        return
    yield Finding(name, f"finished: {len(table)} SAEs")
    for member, failed in table.select("member", "failed").iter_rows():
        if failed:
            yield Finding(f"{name}: {member}", "diverged and was stopped", "train it again with a lower lr", fault=True)
        elif (finding := check_dictionary(path / "saes" / member)).fault:
            yield dataclasses.replace(finding, what=f"{name}: {member}")


def _split(error: Exception) -> tuple[str, str]:
    """(fault, remedy) of a ValueError "fault: remedy"; other errors have no remedy."""
    fault, colon, remedy = str(error).rpartition(": ")
    return (fault, remedy) if colon and type(error) is ValueError else (str(error), "")
