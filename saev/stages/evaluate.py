"""saev evaluate: dictionaries -> a row of metrics each, on recorded activations, and put back into their backbone."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from saev.device import check_device, resolve_device
from saev.dictionary import Dictionary
from saev.evaluation.measuring import choose_images, measure
from saev.evaluation.splicing import pictures_of, places, read_head, splice
from saev.metrics.stability import stability
from saev.runs.planning import key_of
from saev.runs.tables import write_table
from saev.saved import HELD_OUT, SavedDictionary, find_dictionaries, layer_of, open_store
from saev.visuals.evaluation_table import evaluation_table
from saev.visuals.plots import frontier
from saev.visuals.style import save

log = logging.getLogger(__name__)
EXAMPLES = ("held_out", "all")
OF_SPLICING = ("images", "vit", "splice_images", "splice_batch", "references", "head")


def run(cfg: DictConfig) -> list[dict[str, Any]]:
    """Evaluate the named dictionaries; a row per dictionary, also as results.parquet and results.csv."""
    check(cfg)
    found = find_dictionaries([str(path) for path in cfg.dictionaries])
    device = resolve_device(cfg.device)
    images, vit = (instantiate(cfg.images), instantiate(cfg.vit)) if cfg.splice else (None, None)
    head = read_head(cfg.head)  # before minutes are spent
    if images is not None and vit is not None:
        vit.check()
        images.check()
    at = places(found, vit) if vit is not None else {}
    work = {one.name: plan(cfg, one) for one in found}
    if cfg.layer is not None and at:
        for name, place in at.items():
            if place.layer != work[name]["layer"]:
                raise ValueError(
                    f"layer={cfg.layer}: {name} belongs into layer {place.layer}; leave layer out to splice it."
                )
    members = {one.name: one.load(device) for one in found}
    backbone = vit.load(device) if vit is not None else None
    rows = {one.name: describe(one, work[one.name]) for one in found}
    for group in together(work):
        job = work[group[0]]
        log.info("%s layer %d, %d images: %s", job["store"].name, job["layer"], len(job["images"]), "; ".join(group))
        measured = measure(
            {name: members[name] for name in group}, job["store"], job["layer"], job["images"], job["tokens"],
            job["ignore_labels"], cfg.batch_size, device, cfg.correlation_latents, progress=True,
        )  # fmt: skip
        if images is not None and backbone is not None:
            chosen = pictures_of(job["store"], job["images"], images, cfg.splice_images)
            mean = torch.from_numpy(job["store"].moments(job["layer"], job["tokens"]).mean)
            own = {name: members[name] for name in group}
            put_back = splice(own, at, dict.fromkeys(group, mean), images, chosen, backbone, head, cfg)
            measured = {name: measured[name] | put_back[name] for name in group}
        for name in group:
            rows[name] |= measured[name]
    directory = Path(cfg.paths.run_dir)
    table = [rows[one.name] for one in found]
    written = [write_table(directory, "results", table)]
    if (figure := frontier(table)) is not None:
        save(figure, directory / "frontier.png")
        written.append(directory / "frontier.png")
    if cfg.stability:
        written.append(write_table(directory, "stability", pairs(members)))
    console = Console()
    console.print(evaluation_table(table))
    for path in written:
        console.print(f"{path.stem + ':':<13} {path}", soft_wrap=True, highlight=False)
    return table


def check(cfg: DictConfig) -> None:
    """ValueError for values out of bounds, before anything is loaded."""
    if cfg.examples not in EXAMPLES:
        raise ValueError(f"examples={cfg.examples}: choose {' or '.join(EXAMPLES)}.")
    for key in ("batch_size", "splice_batch", "splice_images"):
        value = cfg[key]
        if value is not None and value < 1:
            raise ValueError(f"{key}={value}: give at least 1.")
    if cfg.correlation_latents < 0:
        raise ValueError(f"correlation_latents={cfg.correlation_latents}: give 0 (leave the correlation out) or more.")
    check_device(str(cfg.device), "device")
    if not cfg.splice and HydraConfig.initialized():
        idle = [o for o in HydraConfig.get().overrides.task if key_of(o) in OF_SPLICING]
        if idle:
            log.warning("%s: no effect without splice=true", ", ".join(idle))


def plan(cfg: DictConfig, one: SavedDictionary) -> dict[str, Any]:
    """On what a dictionary is evaluated: store, layer, tokens, ignored labels and images."""
    store = open_store(one, cfg.dataset, Path(cfg.paths.activations))
    layer = layer_of(one, store, cfg.layer)
    tokens = one.about.get("token_roles") or "patches"
    store.role_slice(tokens)
    if "held_out" not in one.about and cfg.examples == "held_out":
        log.warning("%s does not say which images were held out: taking those of the default settings", one.name)
    ignored = list(one.about.get("ignore_labels") or ())
    images = choose_images(store, layer, tokens, ignored, cfg.examples, one.about.get("held_out") or HELD_OUT)
    return {"store": store, "layer": layer, "tokens": tokens, "ignore_labels": ignored, "images": images}


def together(work: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """Names in groups that share one pass: the same activations, layer, tokens and images."""
    groups: list[list[str]] = []
    for name, job in work.items():
        for group in groups:
            other = work[group[0]]
            same = job["store"].manifest.fingerprint == other["store"].manifest.fingerprint and all(
                job[key] == other[key] for key in ("layer", "tokens", "ignore_labels")
            )
            if same and np.array_equal(job["images"], other["images"]):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def describe(one: SavedDictionary, job: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says beside its numbers: the dictionary, how it was trained, and on what it is evaluated."""
    own = {
        key: value for key, value in one.config.get("hyperparameters", {}).items() if not isinstance(value, dict | list)
    }
    return {
        "member": one.name,
        "dictionary": str(one.path),
        **own,
        "d_sae": one.config["n_latents"],
        "failed": bool(one.about.get("failed")),
        "dataset": job["store"].name,
        "layer": job["layer"],
        "tokens": job["tokens"],
        "n_images": len(job["images"]),
    }


def pairs(members: Mapping[str, Dictionary]) -> list[dict[str, Any]]:
    """A row per pair of dictionaries of one width: how alike their atoms are, as directions of raw activations."""
    rows = []
    for (a, one), (b, other) in itertools.combinations(members.items(), 2):
        if one.d_model == other.d_model:
            found = stability(directions(one), directions(other))
            rows.append({"a": a, "b": b, **{key: float(value) for key, value in found._asdict().items()}})
    if not rows:
        raise ValueError("stability=true: give at least two dictionaries of one d_model.")
    return rows


def directions(dictionary: Dictionary) -> torch.Tensor:
    """Atoms in the space of raw activations: those of normalise=standardise are stretched by the scale of each dimension."""
    scale = getattr(getattr(dictionary, "normaliser", None), "scale", None)
    return dictionary.atoms if scale is None or scale.ndim == 0 else dictionary.atoms * scale
