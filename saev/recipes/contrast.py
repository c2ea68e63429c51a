"""`saev.contrast`: which latents separate two groups of images, beside baselines that are fitted to the same activations."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from saev.contrasts.pipeline import ContrastResult, compare, prepare
from saev.contrasts.settings import ContrastSettings, Groups
from saev.recipes.image_baselines import baseline_size, fit_baselines
from saev.runs.directory import new_directory
from saev.runs.tables import write_table
from saev.saved import Dictionaries, Recording
from saev.shards.selected_tokens import Selection


def contrast(
    dictionaries: Dictionaries | None,
    groups: Groups,
    settings: ContrastSettings = ContrastSettings(),  # noqa: B008 it is frozen
    *,
    dataset: Recording | None = None,
    layers: Sequence[int] = (),
    runs: Dictionaries | None = None,
    activations: str | os.PathLike | None = None,
    directory: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    device: str = "auto",
) -> ContrastResult:
    """Compare the codes of every latent between groups of images, pair by pair, and those of baselines by the same code.

    `settings.baselines` are fitted first, to the whole recording, in `directory`/baselines: they do not see the groups.

    Args:
        dictionaries: directories of dictionaries, runs or sweeps, or name -> dictionary in memory.
        groups: which images are compared.
        dataset: a recording; None: the one that the dictionaries were trained on.
        layers: block indices; none: those that the dictionaries were trained on. Dictionaries of other layers are left out.
        runs: further dictionaries over the same images, of any seed, width, layer or backbone, each on the recording that it was
            trained on: partners of separating latents are looked for in them.
        activations: the folder of recordings, in which those that dictionaries were trained on are looked up; None:
            $SAEV_OUTPUTS/activations.
        directory: where tables are written; None: a new one below outputs/contrast.
        codes: the folder of codes, which are read where they are there; None: $SAEV_OUTPUTS/codes.

    Raises ValueError for what does not fit, before activations are read.
    """
    studies = prepare(dictionaries, groups, settings, dataset, layers, runs, activations)
    directory = Path(directory or new_directory("contrast"))
    if settings.baselines:
        sizes = []  # before anything is fitted
        for study in studies:
            n_tokens = Selection(
                study.store, study.layer, np.flatnonzero(study.store.tokens_per_image(study.layer)), settings.tokens
            ).spans.n_tokens
            sizes.append(baseline_size(settings.baseline_size, study.members, int(0.85 * n_tokens)))
        studies = [
            study.with_members(
                fit_baselines(
                    settings.baselines, size, study.store, study.layer, directory, tokens=settings.tokens, seed=settings.seed,
                    device=device,
                )
            )
            for study, size in zip(studies, sizes, strict=True)
        ]  # fmt: skip

    def save(name: str, table: pl.DataFrame) -> None:
        write_table(directory, name, table, csv=name != "contrast")  # a row per latent is too large for csv

    return compare(studies, settings, save=save, codes=codes, device=device)
