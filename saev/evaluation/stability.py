"""Whether dictionaries, e.g. of several seeds, have the same latents: a row per pair, per latent and per dictionary.

dictionaries ──compared──▶ atoms, starts, pooled codes ──compare_pair──▶ flags of latents, numbers of pairs ──▶ tables
"""

import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from saev.checkpoint import start_of
from saev.device import check_device, resolve_device
from saev.dictionary import Dictionary
from saev.evaluation.compared import Compared, at_most, code_vectors, common_images, compared, without_seed
from saev.evaluation.pairwise import Flags, compare_pair, own_start, untrained_fraction
from saev.evaluation.settings import EvaluateSettings
from saev.evaluation.token_draws import compare_draws
from saev.progress import bar
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording, SavedDictionary, find_dictionaries, select_tokens
from saev.shards.selected_tokens import Selection

log = logging.getLogger(__name__)
MEASURES = ("cosine", "correlation", "jaccard")
FLAGS = [f"{name}{kind}{null}" for name in MEASURES for kind in ("", "_one_to_one") for null in ("", "_null")]
STARTS = ["start", "start_one_to_one"]
PAIR = {"a": pl.String, "b": pl.String, "seeds": pl.Boolean}
TOKENS = [f"tokens_{name}{kind}" for name in MEASURES for kind in ("", "_one_to_one")]


@dataclasses.dataclass(frozen=True)
class Stability:
    """How far dictionaries have the same latents. Columns are explained in docs/guide.md, section 7.

    Args:
        pairs: a row per pair of dictionaries: a, b, seeds (they differ in nothing but their seed), and for cosine, correlation and jaccard
            the fractions of latents with a partner: of a, of b, one-to-one, and in the null.
        latents: a row per dictionary and latent: the fractions of the other dictionaries in which it has a partner.
        dictionaries: a row per dictionary: the means of its latents, and the fractions of untrained directions and of drawn tokens.
        partners: the one-to-one pairs of atoms of all pairs of dictionaries: a, latent, b, partner, cosine.
    """

    pairs: pl.DataFrame
    latents: pl.DataFrame
    dictionaries: pl.DataFrame
    partners: pl.DataFrame = dataclasses.field(repr=False)


def stability(
    dictionaries: Dictionaries,
    recording: Recording | None = None,
    settings: EvaluateSettings = EvaluateSettings(),  # noqa: B008 it is frozen
    *,
    layer: int | None = None,
    starts: Mapping[str, Tensor | None] | None = None,
    activations: str | os.PathLike | None = None,
    directory: str | os.PathLike | None = None,
    progress: bool = False,
) -> Stability:
    """Compare the latents of all pairs of dictionaries: by cosine of atoms, by correlation of codes and by Jaccard of top images.

    Args:
        dictionaries: folders of dictionaries, runs or sweeps, or a mapping of names to dictionaries in memory.
        recording, layer: the activations that are encoded; None: those each was trained on. Without it dictionaries in memory are compared
            by atoms alone.
        settings: of which stability_among, stability_images, tokens, examples, batch_size and device are used.
        starts: of each name the atoms at the start of training; None: those that were saved with the dictionaries.
        activations: the folder of recordings where `recording` is None; None: $SAEV_OUTPUTS/activations.
        directory: where to write stability.parquet, stability_latents.parquet and stability_dictionaries.parquet; None: nothing.

    Raises ValueError, before anything is computed, where no two dictionaries can be compared.
    """
    check_device(settings.device)
    saved, device = find_dictionaries(dictionaries), resolve_device(settings.device)
    encoded = [one for one in saved if settings.stability_images and (one.path is not None or recording is not None)]
    selections = {
        one.name: select_tokens(one, recording, activations, layer, settings.tokens, settings.examples)
        for one in encoded
    }
    check_comparable(saved, selections, settings)
    result = compare(
        saved, {one.name: one.load(device) for one in saved}, selections, settings, starts, device, progress
    )
    if directory is not None:
        write_stability(result, Path(directory))
    return result


def check_comparable(
    saved: Sequence[SavedDictionary], selections: Mapping[str, Selection], settings: EvaluateSettings
) -> None:
    """ValueError where no two dictionaries have the same d_model or, where codes are compared, images in common."""

    def comparable(a: SavedDictionary, b: SavedDictionary) -> bool:
        shared = common_images(selections.get(a.name), selections.get(b.name))[0] if settings.stability_images else ()
        return a.config["d_model"] == b.config["d_model"] or len(shared) > 1

    pairs = [*itertools.combinations(saved, 2)]
    if not any(comparable(*pair) for pair in pairs):
        raise ValueError("stability=true: give at least two dictionaries, of one d_model or over the same images.")
    if settings.stability_among == "seeds" and not any(without_seed(a) == without_seed(b) for a, b in pairs):
        log.warning("stability_among=seeds: no two of the dictionaries differ in their seed alone, nothing is compared")


def compare(
    saved: Sequence[SavedDictionary],
    members: Mapping[str, Dictionary],
    selections: Mapping[str, Selection],
    settings: EvaluateSettings,
    starts: Mapping[str, Tensor | None] | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> Stability:
    """See `stability`; of dictionaries that are loaded, and the tokens that each is evaluated on."""
    most = settings.stability_images
    chosen = {name: at_most(selection, most) for name, selection in selections.items() if most}
    if starts is None:
        starts = {one.name: start_of(one.path) for one in saved if one.path is not None}
    ones = compared(saved, members, chosen, starts, settings.batch_size, device, progress)
    vectors = functools.lru_cache(maxsize=3)(code_vectors)
    flags: dict[str, list[Flags]] = {one.name: [] for one in ones}
    rows, partners = [], []
    among_all = settings.stability_among == "all"
    pairs = [(a, b) for a, b in itertools.combinations(ones, 2) if among_all or a.settings == b.settings]
    with bar("Comparing", len(pairs), visible=progress) as advance:
        for number, (a, b) in enumerate(pairs):
            pair = compare_pair(a, b, vectors, number)
            rows.append({"a": a.name, "b": b.name, "seeds": a.settings == b.settings, **pair.numbers})
            flags[a.name].append(pair.flags_a)
            flags[b.name].append(pair.flags_b)
            if pair.partners is not None:
                latent, partner, cosine = pair.partners
                partners.append(
                    pl.DataFrame({"latent": latent, "partner": partner, "cosine": cosine}).select(
                        pl.lit(a.name).alias("a"), "latent", pl.lit(b.name).alias("b"), "partner", "cosine"
                    )
                )
            advance(1)
    latents = pl.concat(latent_rows(one, data, flags[one.name]) for one, data in zip(saved, ones, strict=True))
    return Stability(
        pl.DataFrame(rows, None if rows else PAIR, infer_schema_length=None),
        latents,
        dictionary_rows(ones, latents, settings.batch_size, device),
        pl.concat(partners) if partners else pl.DataFrame(),
    )


def latent_rows(one: SavedDictionary, data: Compared, flags: Sequence[Flags]) -> pl.DataFrame:
    """The rows of one dictionary's latents, from whether it has a partner in each other dictionary; null where nothing was compared."""
    columns: dict[str, Any] = {}
    for name in (*FLAGS, *STARTS):
        known = [one[name].numpy() for one in flags if name in one]
        columns[f"stability_{name}"] = np.mean(known, 0) if known else None
    start = own_start(data)
    n_others = {f"others_{name}": sum(name in one for one in flags) for name in ("cosine", "correlation")}
    frame = pl.DataFrame({"latent": np.arange(len(data.atoms))})
    return frame.select(
        pl.lit(one.name).alias("member"),
        pl.lit((one.config.get("sha256") or {}).get("weights"), pl.String).alias("sha256"),
        "latent",
        *(pl.lit(n, pl.Int64).alias(name) for name, n in n_others.items()),
        *(pl.lit(None if x is None else pl.Series(x), pl.Float64).alias(name) for name, x in columns.items()),
        pl.lit(None if start is None else pl.Series(start.numpy()), pl.Float64).alias("start_cosine"),
    )


def dictionary_rows(ones: Sequence[Compared], latents: pl.DataFrame, batch_size: int, device: str) -> pl.DataFrame:
    """A row per dictionary: means over its latents; untrained_cosine, the fraction of atoms with a partner among random directions; and
    the numbers of `compare_draws` of as many tokens as it has latents."""
    rows: list[dict[str, Any]] = []
    draws: dict[Any, dict[str, float]] = {}
    for one in ones:
        row = {"member": one.name, "untrained_cosine": untrained_fraction(one), **dict.fromkeys(TOKENS)}
        if (selection := one.selection) is not None:
            n = len(one.atoms)
            key = (selection.store.manifest.fingerprint, selection.layer, selection.tokens, n)
            if key not in draws:
                draws[key] = compare_draws(selection, n, batch_size, device)
            row |= draws[key]
        rows.append(row)
    means = latents.group_by("member", maintain_order=True).agg(pl.exclude("sha256", "latent").mean())
    schema = {"member": pl.String, **dict.fromkeys(("untrained_cosine", *TOKENS), pl.Float64)}
    return means.join(pl.DataFrame(rows, schema=schema), "member", how="left", maintain_order="left")


def write_stability(result: Stability, directory: Path) -> list[Path]:
    """Write the tables; their parquet files."""
    tables = {
        "stability": result.pairs,
        "stability_latents": result.latents,
        "stability_dictionaries": result.dictionaries,
    }
    return [write_table(directory, name, table) for name, table in tables.items()]
