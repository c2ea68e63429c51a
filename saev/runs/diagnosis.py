"""What `saev doctor PATH` finds out about a recording, a dictionary, a run or a sweep."""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from saev.codes.manifest import KIND as CODES
from saev.codes.store import CodeStore
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


def examine(path: Path) -> list[Finding]:
    """Everything that can be said about what is at `path`, at least one finding."""
    if not path.is_dir():
        return [Finding(str(path), "there is no such directory", "check the path", fault=True)]
    if (path / MANIFEST).is_file():
        return list(codes(path) if holds_codes(path) else recording(path))
    if (path / "config.json").is_file() or (path / "dictionary.safetensors").is_file():
        return [dictionary(path)]
    if (path / SWEEP).is_file():
        return [finding for run in Sweep.load(path).jobs for finding in training(path / run)]
    if (path / RESULTS).is_file() or (path / ".hydra").is_dir() or (path / CHECKPOINT).is_file():
        return list(training(path))
    runs = sorted(p for p in path.iterdir() if (p / ".hydra").is_dir())
    if runs:
        return [finding for run in runs for finding in training(run)]
    remedy = f"give a directory with {MANIFEST}, dictionary.safetensors, or a run's .hydra"
    return [Finding(str(path), "is no recording, dictionary, run or sweep", remedy, fault=True)]


def recording(path: Path) -> Iterator[Finding]:
    """Is the recording complete, is each shard what was written (sha256), are its statistics and its table there?"""
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
    if faults:  # what else is wrong follows from them
        yield from faults
        return
    yield Finding(name, f"{len(manifest.shards)} shards as recorded (sha256)")
    for fault in index_faults(path, manifest):
        yield Finding(
            name,
            fault,
            "open the dataset where it can be written, as any training run does: the index is made anew",
            fault=True,
        )
    for check in (*(partial(contents, store, layer) for layer in store.layers), lambda: store.token_labels):
        try:
            check()
        except (ValueError, OSError, SafetensorError) as error:
            found, remedy = _split(error)
            yield Finding(name, found, remedy or AGAIN, fault=True)
    try:
        failed = store.examples.filter(store.examples["n_tokens"] == 0)
    except (OSError, pl.exceptions.PolarsError) as error:
        yield Finding(name, f"{EXAMPLES} cannot be read ({error})", AGAIN, fault=True)
        return
    if len(failed):
        first = f"{failed['path'][0]}: {failed['error'][0]}"
        yield Finding(name, f"{len(failed)} images could not be read, the first: {first}")


def contents(store: ActivationStore, layer: int) -> None:
    """Raise what reading a layer's statistics, places and values raises."""
    store.moments(layer)
    store.offsets(layer)
    store.read(layer, 0)


def holds_codes(path: Path) -> bool:
    """Whether the manifest says so; one that cannot be read is taken for a recording's."""
    try:
        return json.loads((path / MANIFEST).read_text()).get("kind") == CODES
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        return False


def codes(path: Path) -> Iterator[Finding]:
    """Are the codes complete, and is each file what was written (sha256)?"""
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


def dictionary(path: Path) -> Finding:
    """Does the saved dictionary load, and are its weights finite?"""
    import torch
    from safetensors import SafetensorError

    from saev.checkpoint import load, read_config

    name = f"dictionary {path.name}"
    try:
        loaded = load(path)
        about = read_config(path)
    except (ValueError, KeyError, OSError, RuntimeError, SafetensorError) as error:
        found, remedy = _split(error)
        return Finding(name, found, remedy or "restore the directory, or train it again", fault=True)
    if not torch.isfinite(loaded.atoms).all():
        return Finding(name, "its atoms are not finite", "train it again with a lower lr", fault=True)
    provenance = about.get("provenance", {})
    origin = f"; trained on {provenance['dataset']}, layer {provenance['layer']}" if "layer" in provenance else ""
    return Finding(
        name, f"{about['sparsifier']['kind']}, {loaded.n_latents} latents of {loaded.d_model} dimensions{origin}"
    )


def training(path: Path) -> Iterator[Finding]:
    """Has the run finished, can it go on, which of its SAEs failed or do not load?"""
    import polars as pl

    name = f"run {path.name}"
    if not (path / RESULTS).is_file():
        if (path / CHECKPOINT).is_file():
            yield Finding(name, "unfinished, with a checkpoint", f"go on: saev train ckpt_path={path}")
        elif (path / ERROR).is_file():
            said = (path / ERROR).read_text().strip()
            yield Finding(
                name,
                f"failed before its first checkpoint: {said}",
                "mend that and start it again, or delete it",
                fault=True,
            )
        else:
            yield Finding(name, "unfinished, without a checkpoint", "delete it and start it again", fault=True)
        return
    try:
        table = pl.read_parquet(path / RESULTS)
    except pl.exceptions.PolarsError as error:
        yield Finding(name, f"{RESULTS} cannot be read: {error}", "train again", fault=True)
        return
    yield Finding(name, f"finished: {len(table)} SAEs")
    for member, failed in table.select("member", "failed").iter_rows():
        if failed:
            yield Finding(f"{name}: {member}", "diverged and was stopped", "train it again with a lower lr", fault=True)
        elif (found := dictionary(path / "saes" / member)).fault:
            yield dataclasses.replace(found, what=f"{name}: {member}")


def _split(error: Exception) -> tuple[str, str]:
    """What is wrong and the remedy, out of one of our own messages ("what: remedy"); others have no remedy."""
    found, colon, remedy = str(error).rpartition(": ")
    return (found, remedy) if colon and type(error) is ValueError else (str(error), "")
