"""The checks of `saev doctor PATH`: a recording, codes, a dictionary, a run or a sweep. They read only."""

import dataclasses
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml

from saev.codes.manifest import KIND as CODES
from saev.codes.store import CodeStore
from saev.files import read_parquet
from saev.locks import is_locked
from saev.runs.directory import checkpoint_fault
from saev.runs.ledger import CHECKPOINT, CONFIG, ERROR, LOCK, RESULTS, Sweep
from saev.runs.ledger import FILE as SWEEP
from saev.shards import ActivationStore, Manifest
from saev.shards.manifest import FILE as MANIFEST
from saev.shards.verify import index_faults
from saev.shards.writer import EXAMPLES

DICTIONARY, WEIGHTS = "config.json", "dictionary.safetensors"  # saev.checkpoint, which imports torch
AGAIN = "restore the file, or delete the directory and record again"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    what: str
    found: str
    remedy: str = ""
    fault: bool = False


def check_path(path: Path) -> list[Finding]:
    """The findings about `path`, or about everything below it that saev has written; at least one."""
    if not path.is_dir():
        return [Finding(str(path), "there is no such directory", "check the path", fault=True)]
    findings = [finding for directory in written_by_saev(path) for finding in check_directory(directory)]
    return findings or [Finding(str(path), "unknown: neither it nor a directory below is one of saev's; left alone")]


def written_by_saev(path: Path) -> Iterator[Path]:
    """The recordings, codes, dictionaries, runs and sweeps in a directory, itself or below; not the parts of another one."""
    marks = (MANIFEST, DICTIONARY, WEIGHTS, SWEEP, RESULTS, CHECKPOINT, CONFIG, ".hydra")
    for folder, below, _ in os.walk(path):
        if any((Path(folder) / mark).exists() for mark in marks):
            below.clear()
            yield Path(folder)
        below.sort()


def check_directory(path: Path) -> Iterator[Finding]:
    """The findings about one directory that saev has written."""
    if (path / MANIFEST).is_file():
        yield from check_codes(path) if holds_codes(path) else check_recording(path)
    elif (path / DICTIONARY).is_file() or (path / WEIGHTS).is_file():
        yield check_dictionary(path)
    elif (path / SWEEP).is_file():
        for run in Sweep.load(path).jobs:
            yield from check_run(path / run)
    else:
        yield from check_run(path)


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
    """Does the saved dictionary load with the atoms it started from, and are its weights finite?"""
    import torch
    from safetensors import SafetensorError

    from saev.checkpoint import load, read_config, start_of

    name = f"dictionary {path.name}"
    try:
        dictionary = load(path)
        config = read_config(path)
        start_of(path)
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        fault, remedy = _split(error)
        return Finding(name, fault, remedy or "restore the directory, or train it again", fault=True)
    if not torch.isfinite(dictionary.atoms).all():
        return Finding(name, "its atoms are not finite", "train it again with a lower lr", fault=True)
    provenance = config.get("provenance", {})
    origin = f"; trained on {provenance['dataset']}, layer {provenance['layer']}" if "layer" in provenance else ""
    return Finding(
        name,
        f"{config.get('sparsifier', config)['kind']}, {dictionary.n_latents} latents of {dictionary.d_model} dimensions{origin}",
    )


def check_run(path: Path) -> Iterator[Finding]:
    """Has the run finished, can it be resumed, can its tables be read, which of its dictionaries failed or do not load?"""
    import polars as pl

    verb = verb_of(path)
    name = f"{verb or 'run'} {path.name}"
    finished = (path / RESULTS).is_file() or any(path.glob("latents*.html"))
    if (path / CHECKPOINT).is_file() and (fault := checkpoint_fault(path / CHECKPOINT)):
        yield Finding(name, fault, "delete it; an unfinished run then starts from the beginning", fault=True)
    elif not finished:
        yield unfinished(path, name, verb)
    tables = {}
    for file in sorted(path.glob("*.parquet")):
        try:
            tables[file.name] = read_parquet(file)
        except (pl.exceptions.PolarsError, OSError) as error:
            remedy = f"repeat saev {verb or 'train'} in another directory"
            yield Finding(name, f"{file.name} cannot be read: {error}", remedy, fault=True)
    if not finished or RESULTS not in tables or not (path / "saes").is_dir():
        if finished and tables:
            yield Finding(name, "finished: " + ", ".join(f"{file} with {len(of)} rows" for file, of in tables.items()))
        elif finished and not any(path.glob("*.parquet")):
            yield Finding(name, "finished: " + ", ".join(sorted(page.name for page in path.glob("latents*.html"))))
        return
    rows = tables[RESULTS].to_dicts()
    yield Finding(name, f"finished: {len(rows)} dictionaries")
    for row in rows:
        if row.get("failed"):
            remedy = "train it again with a lower lr"
            yield Finding(f"{name}: {row['member']}", "diverged and was stopped", remedy, fault=True)
        elif (finding := check_dictionary(path / "saes" / row["member"])).fault:
            yield dataclasses.replace(finding, what=f"{name}: {row['member']}")


def verb_of(path: Path) -> str | None:
    """The command that made a run's directory, from Hydra's record of it; None without one, e.g. of a run from Python."""
    try:
        return yaml.safe_load((path / ".hydra" / "hydra.yaml").read_text())["hydra"]["job"]["config_name"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def unfinished(path: Path, name: str, verb: str | None) -> Finding:
    """The finding about a run without results."""
    if is_locked(path / LOCK):
        return Finding(name, "running: a process holds its lock")
    if verb in ("record", "encode", "convert"):
        return Finding(name, "holds a log only: the results of this command are written elsewhere")
    if (path / CHECKPOINT).is_file():
        return Finding(name, "unfinished, with a checkpoint", f"resume: saev {verb or 'train'} ckpt_path={path}")
    if (path / ERROR).is_file():
        error = (path / ERROR).read_text().strip()
        remedy = "correct that and start it again"
        return Finding(name, f"failed before its first checkpoint: {error}", remedy, fault=True)
    return Finding(name, "unfinished, without results or a checkpoint", "start it again", fault=True)


def _split(error: Exception) -> tuple[str, str]:
    """(fault, remedy) of a ValueError "fault: remedy"; other errors have no remedy."""
    fault, colon, remedy = str(error).rpartition(": ")
    return (fault, remedy) if colon and type(error) is ValueError else (str(error), "")
