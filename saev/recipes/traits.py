"""`saev.traits`: the traits that dictionaries hold, beside baselines that are fitted to the same activations on demand."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from saev.recipes.image_baselines import baseline_size, fit_baselines
from saev.runs.directory import new_directory
from saev.saved import Dictionaries, Recording, SavedDictionary
from saev.scoring.scorers import TokenScorer
from saev.trait_evaluation.methods import Study
from saev.trait_evaluation.pipeline import TraitsResult, check_names, evaluate_traits, prepare
from saev.trait_evaluation.settings import TraitsSettings
from saev.trait_evaluation.sources import ImageTraits, Masks


def traits(
    dictionaries: Dictionaries | None,
    train: Recording,
    source: ImageTraits | Masks,
    settings: TraitsSettings = TraitsSettings(),  # noqa: B008 it is frozen
    *,
    test: Recording | None = None,
    layers: Sequence[int] = (),
    scorers: Mapping[str, TokenScorer] | None = None,
    directory: str | os.PathLike | None = None,
    codes: str | os.PathLike | None = None,
    device: str = "auto",
) -> TraitsResult:
    """For each trait choose the best prototype of each method on training units, and measure it on test units.

    `settings.baselines` are fitted first, in `directory`/baselines.

    Args:
        dictionaries: directories of dictionaries, runs or sweeps, or name -> dictionary in memory.
        train, source: a recording, and where its images' or tokens' traits come from (saev/trait_evaluation/sources).
        test: another recording; None: images of `train`, by `settings.split` or `settings.test_fraction`.
        layers: block indices; none: those that the dictionaries were trained on. Dictionaries of other layers are left out.
        scorers: further methods by name: what maps activations [batch, d_model] on the device to scores [batch, n_prototypes].
        directory: where tables are written; None: a new one below outputs/traits.
        codes: the folder of codes, which are read where they are there; None: $SAEV_OUTPUTS/codes.

    Raises ValueError for what does not fit, before activations are read.
    """
    studies = prepare(dictionaries, train, source, settings, test, layers)
    if settings.baselines:  # else `evaluate_traits` does
        for study in studies:
            check_names(study, scorers or {}, settings)
    directory = Path(directory or new_directory("traits"))
    if settings.baselines:
        sizes = [  # before anything is fitted
            baseline_size(settings.baseline_size, study.members, fitted_tokens(study, settings.tokens))
            for study in studies
        ]
        studies = [
            study.with_members(fitted(study, size, settings, directory, device))
            for study, size in zip(studies, sizes, strict=True)
        ]
    return evaluate_traits(
        studies, settings, scorers=scorers, directory=directory, codes=codes, device=device,
        label_mode=getattr(source, "labels", None),
    )  # fmt: skip


def fitted_tokens(study: Study, tokens: str) -> int:
    """The training tokens of baselines; of two recordings a tenth of the training images is held out."""
    n = study.train.selection(study.layer, tokens).spans.n_tokens
    return n if study.train.store is study.test.store else int(0.85 * n)


def fitted(study: Study, size: int, settings: TraitsSettings, directory: Path, device: str) -> list[SavedDictionary]:
    """The baselines of a layer, fitted to the training side of one recording, or to nine tenths of the training recording."""
    store, held_out = study.train.store, {}
    if study.test.store is store:
        held_out = {"val_fraction": settings.test_fraction, "group": settings.group, "split": settings.split}
    return fit_baselines(
        settings.baselines, size, store, study.layer, directory, tokens=settings.tokens, seed=settings.seed, device=device,
        **held_out,
    )  # fmt: skip
