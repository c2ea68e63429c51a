"""`saev.bench`: every measure of every dictionary, on the same images.

dictionaries ──select_tokens──▶ one pass per recording ──codes by image──▶ measures ──▶ a row per dictionary, beside its nulls
"""

import collections
import dataclasses
import functools
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import polars as pl

from saev.device import check_device, resolve_device
from saev.dictionary import Dictionary
from saev.dictionary_bench.altered_images import ALTERATIONS
from saev.dictionary_bench.comparing import measure_rows, result_rows, seed_table
from saev.dictionary_bench.encoding import codes_by_image
from saev.dictionary_bench.inputs import Inputs
from saev.dictionary_bench.json_layout import write_json
from saev.dictionary_bench.measured import Measured, absent
from saev.dictionary_bench.measures import MEASURES, NEEDS
from saev.dictionary_bench.measuring import DictionaryResult, Measuring, latent_rows
from saev.dictionary_bench.of_other_verbs import (
    PROBED,
    SPLICED,
    STABLE,
    have_seeds,
    of_atoms,
    probed,
    spliced,
    stability_of,
    stable,
)
from saev.dictionary_bench.preparing import (
    BenchImages,
    Elsewhere,
    Selections,
    check_same_images,
    log_different_tokens,
    log_without_effect,
    open_transfer,
    read_inputs,
    record_altered,
    selected,
)
from saev.dictionary_bench.settings import BenchSettings
from saev.dictionary_bench.transfer import Other
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording, find_dictionaries, shared_passes
from saev.scoring.against import reference_dictionaries

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Tables of `saev.bench`, which `directory` holds as parquet and csv, beside bench.json and measures.json.

    Args:
        results: a row per dictionary: what it is, and of each measure <name>, <name>_low, <name>_high, <name>_null and <name>_n.
        measures: a row per dictionary and measure, with the reason where it was not measured, and its difference from `against`.
        latents: a row per dictionary and latent. concepts, attributes: a row per dictionary and concept, or attribute of pairs.
        seeds: a row per group of dictionaries that differ by their seed alone.
        against: the dictionaries from whose mean differences are taken.
    """

    results: pl.DataFrame
    measures: pl.DataFrame
    latents: pl.DataFrame
    concepts: pl.DataFrame
    attributes: pl.DataFrame
    seeds: pl.DataFrame
    against: tuple[str, ...]
    directory: Path | None

    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables that are not empty, by the names of their files."""
        named = {
            "results": self.results,
            **{key: getattr(self, key) for key in ("measures", "latents", "concepts", "attributes", "seeds")},
        }
        return {name: table for name, table in named.items() if len(table)}


def bench(
    dictionaries: Dictionaries,
    recording: Recording | None = None,
    settings: BenchSettings = BenchSettings(),  # noqa: B008 it is frozen
    *,
    layer: int | None = None,
    images: BenchImages = BenchImages(),  # noqa: B008 it is frozen
    transfer: Sequence[Recording] = (),
    splice: bool = False,
    directory: str | os.PathLike | None = None,
    activations: str | os.PathLike | None = None,
    progress: bool = False,
) -> Bench:
    """Measure dictionaries on the same images, and compare them with one of them.

    Args:
        dictionaries: folders of dictionaries, runs or sweeps, or a mapping of names to dictionaries in memory.
        recording, layer: the activations; None: those that each dictionary was trained on. Recordings by several backbones must be of
            the same images.
        images: the images and the backbone that were recorded, and embeddings or concepts of the images, as far as they are there.
        transfer: other recordings by the backbone, with the labels `settings.labels`.
        splice: also put reconstructions back into the backbone; needs `images.recorded` and `images.vit`.
        directory: where tables, bench.json and made pairs are written; None: nothing is written.
        activations: the folder of recordings where `recording` is None; None: $SAEV_OUTPUTS/activations.

    Raises ValueError, before anything is encoded, for what does not fit. Measures that the inputs do not allow are left out and named.
    """
    check_device(settings.device)
    if not (kept := {*MEASURES} - {*settings.without}):
        raise ValueError("without= leaves out every measure: leave one in.")
    saved, device = find_dictionaries(dictionaries), resolve_device(settings.device)
    path = None if directory is None else Path(directory)
    against = reference_dictionaries(settings.against, saved)
    chosen = selected(saved, recording, activations, layer, settings.tokens, settings.examples)
    check_same_images(chosen, settings.examples)
    log_different_tokens(chosen)
    log_without_effect(chosen, settings, images, transfer, splice, against)
    elsewhere = open_transfer(saved, chosen, transfer, settings, layer)
    inputs = read_inputs(chosen[saved[0].name], settings, images, device)
    altered: Selections | None = None
    if settings.pairs in ALTERATIONS:
        altered, pairs = record_altered(saved, chosen, settings, images, path)
        inputs = dataclasses.replace(inputs, pairs=pairs)
    members = {one.name: one.load(device) for one in saved}
    codes = measure_codes(members, chosen, altered, elsewhere, inputs, settings, device, progress)
    sources: list[Mapping[str, Mapping[str, Measured]]] = [of_atoms(members)]
    if kept & {*PROBED}:
        sources.append(probed(saved, chosen, settings, device))
    if splice and SPLICED in kept:
        sources.append(spliced(saved, members, chosen, images, settings, device))
    of_latents = None
    if kept & {*STABLE} and have_seeds(saved):
        of_latents = stability_of(saved, members, chosen, settings, device, progress)
        sources.append(stable(of_latents, saved, settings))
    measures = {
        name: gathered([codes[name].measures, *(source.get(name, {}) for source in sources)], kept) for name in members
    }
    rows = result_rows(saved, chosen, measures)
    latents = [
        latent_rows(one, measures[one.name], None if of_latents is None else of_latents.latents) for one in saved
    ]
    made = Bench(
        results=pl.DataFrame(rows, infer_schema_length=None),
        measures=measure_rows(measures, against, seed=settings.seed),
        latents=pl.concat(latents, how="diagonal_relaxed"),
        concepts=tables_of(codes, "concepts"),
        attributes=tables_of(codes, "attributes"),
        seeds=seed_table(rows, saved, against),
        against=tuple(against),
        directory=path,
    )
    if path is not None:
        for name, table in made.tables().items():
            write_table(path, name, table)
        write_json(path, made.measures)
    return made


def gathered(sources: Sequence[Mapping[str, Measured]], kept: Collection[str]) -> dict[str, Measured]:
    """All measures that are kept, in the order of MEASURES; of those that no source has, the reason."""
    known: Mapping[str, Measured] = collections.ChainMap(*map(dict, sources))
    return {name: known[name] if name in known else absent(f"needs {NEEDS[name]}") for name in MEASURES if name in kept}


def measure_codes(
    members: Mapping[str, Dictionary],
    chosen: Selections,
    altered: Selections | None,
    elsewhere: Mapping[str, Elsewhere],
    inputs: Inputs,
    settings: BenchSettings,
    device: str,
    progress: bool,
) -> dict[str, DictionaryResult]:
    """The measures of codes by image. Memory: the codes by image of the dictionaries of one pass."""
    results = {}
    for group in shared_passes(chosen):
        together = {name: members[name] for name in group}
        encode = functools.partial(
            codes_by_image, together, batch_size=settings.batch_size, device=device, progress=progress
        )
        codes = encode(chosen[group[0]])
        paired = codes if altered is None else encode(altered[group[0]])
        there = {name: encode(other.selections[group[0]]) for name, other in elsewhere.items()}
        measuring = Measuring(codes[group[0]].images, inputs, settings)
        for name in group:
            log.info("measuring %s", name)
            others = {other: Other(one[name], elsewhere[other].labels) for other, one in there.items()}
            results[name] = measuring(codes[name], paired[name], others)
    return results


def tables_of(results: Mapping[str, DictionaryResult], name: str) -> pl.DataFrame:
    """The tables of this name of all dictionaries, with a column `member`."""
    parts = [
        result.tables[name].insert_column(0, pl.Series("member", [member] * len(result.tables[name]), pl.String))
        for member, result in results.items()
        if name in result.tables
    ]
    return pl.concat(parts) if parts else pl.DataFrame()
