"""saev show: dictionaries -> a page of the images behind their latents: those asked for, or the best of probed classes."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig

from saev.device import check_device, resolve_device
from saev.recipes.results import credits_of
from saev.runs.planning import key_of
from saev.saved import SavedDictionary, find_dictionaries, select_tokens, shared_passes
from saev.visuals.report import evenly, write_report

log = logging.getLogger(__name__)
MOST_CLASSES = 24  # without classes=
Chosen = dict[str, dict[int, str]]  # dictionary -> latent -> what to say of it


def run(cfg: DictConfig) -> list[Path]:
    """Write a page for each recording and layer that the dictionaries read; the pages."""
    check(cfg)
    rule = instantiate(cfg.choice)
    found = {one.name: one for one in find_dictionaries([str(path) for path in cfg.dictionaries])}
    chosen = chosen_latents(cfg, list(found.values()))
    images = instantiate(cfg.images) if cfg.get("images") is not None else None
    if images is not None:
        images.check()
    work = {
        name: select_tokens(one, cfg.dataset, cfg.paths.activations, cfg.layer, None, cfg.examples)
        for name, one in found.items()
    }
    for name, job in work.items():
        if job.store.location.remote:
            raise ValueError(f"{name}: {job.store.name} is remote, its images cannot be read one by one: copy it here.")
    pages = []
    for number, group in enumerate(shared_passes(work), 1):
        job = work[group[0]]
        log.info("%s layer %d: %s", job.store.name, job.layer, "; ".join(group))
        looked_at = job.images if cfg.most_images is None else evenly(job.images, cfg.most_images)
        pages.append(
            write_report(
                Path(cfg.paths.run_dir) / ("latents.html" if number == 1 else f"latents-{number}.html"),
                rows=[],
                members={name: found[name].load(resolve_device(cfg.device)) for name in group},
                store=job.store,
                layer=job.layer,
                tokens=job.tokens,
                examples=looked_at,
                examples_are={"all": "recorded", "held_out": "held-out"}[cfg.examples],
                images=images,
                credits=[credits_of(images)],
                title="Latents",
                choice=rule,
                chosen=chosen,
                n_images=cfg.n_images,
                max_members=len(group),
                progress=True,
            )
        )
        print(pages[-1])
    if images is None:
        log.warning("no photos are shown: give the images that were recorded, e.g. images=folder images.root=/path")
    return pages


def check(cfg: DictConfig) -> None:
    """ValueError for values out of bounds, before anything is loaded."""
    if cfg.examples not in ("held_out", "all"):
        raise ValueError(f"examples={cfg.examples}: choose held_out or all.")
    for key in ("n_images", "most_images"):
        if cfg[key] is not None and cfg[key] < 1:
            raise ValueError(f"{key}={cfg[key]}: give at least 1.")
    if cfg.latents is not None and cfg.probe is not None:
        raise ValueError("latents= and probe= both say which latents to show: give one of them.")
    if cfg.classes is not None and cfg.probe is None:
        raise ValueError(f"classes={cfg.classes}: give the probe that knows them, probe=outputs/probe/<date>/<run>.")
    check_device(str(cfg.device), "device")
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    idle = [override for override in overrides if key_of(override) == "choice"]
    if idle and (cfg.latents is not None or cfg.probe is not None):
        log.warning("%s: no effect beside latents= or probe=", ", ".join(idle))


def chosen_latents(cfg: DictConfig, found: Sequence[SavedDictionary]) -> Chosen:
    """Per dictionary the latents that are asked for, in the order asked for; none where the rule is to choose."""
    if cfg.latents is not None:
        asked = listed(cfg.latents)
        if not asked or not all(isinstance(latent, int) for latent in asked):
            raise ValueError(f"latents={cfg.latents}: give their numbers, e.g. latents=[12,965].")
        latents = dict.fromkeys(asked, "")
        for one in found:
            for latent in latents:
                if not 0 <= latent < one.config["n_latents"]:
                    raise ValueError(
                        f"latents: {latent} is not in {one.name}, whose latents are 0 to {one.config['n_latents'] - 1}."
                    )
        return {one.name: latents for one in found}
    if cfg.probe is None:
        return {}
    path = Path(cfg.probe) / "classes.parquet"
    if not path.is_file():
        raise ValueError(
            f"probe={cfg.probe}: {path.name} is missing there; give the directory that `saev probe` printed."
        )
    table = pl.read_parquet(path).filter(pl.col("labels") == "true", pl.col("latent").is_not_null())
    return {one.name: of_classes(table, one.name, cfg) for one in found}


def of_classes(table: pl.DataFrame, member: str, cfg: DictConfig) -> dict[int, str]:
    """The best latents of a dictionary's classes, a latent that is that of several classes once."""
    own = table.filter(pl.col("member") == member)
    if own.is_empty():
        known = ", ".join(sorted(set(table["member"])))
        raise ValueError(f"probe={cfg.probe}: it has no class of {member}; it has those of {known}.")
    if cfg.classes is None:
        rows = own.sort("ap", descending=True, nulls_last=True).head(MOST_CLASSES).to_dicts()
    else:
        by_class, asked = {row["class"]: row for row in own.to_dicts()}, listed(cfg.classes)
        if unknown := [str(name) for name in asked if name not in by_class]:
            raise ValueError(
                f"classes: {member} has no latent for {', '.join(unknown)}; choose among {sorted(by_class)}."
            )
        rows = [by_class[name] for name in asked]
    said: dict[int, list[str]] = {}
    for row in rows:
        said.setdefault(int(row["latent"]), []).append(caption(row))
    return {latent: "; ".join(texts) for latent, texts in said.items()}


def listed(value: Any) -> list[Any]:
    """One value, or several, as a list."""
    return list(value) if isinstance(value, ListConfig) else [value]


def caption(row: Mapping[str, Any]) -> str:
    """What a class's row says of its latent."""
    against = "not " if row["sign"] < 0 else ""
    precision = "" if row["ap"] is None else f", AP {row['ap']:.2f}"
    return f"{against}{row['class']}{precision}"
