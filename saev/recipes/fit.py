"""Fit baselines to a recording: `saev.fit`, and what `saev fit` calls.

recording ──▶ ActivationDataModule ──batches──▶ a fitter per baseline ──▶ saes/<name>, results.parquet
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from datamodules import ActivationDataModule
from saev.baselines import BaselineSettings
from saev.baselines.baseline import Baseline
from saev.checkpoint import save_dictionary
from saev.device import resolve_device
from saev.evaluation.measuring import measure
from saev.nn.normalise import Normaliser
from saev.recipes.fitting_passes import Passes
from saev.runs.directory import new_directory, open_run
from saev.runs.ledger import CHECKPOINT
from saev.runs.signals import answer_slurm
from saev.runs.tables import write_table
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.training.settings import MAY_DIFFER, FitSettings

log = logging.getLogger(__name__)

MEASURED = 4096  # tokens per batch, at most, when the dictionaries are evaluated


@dataclasses.dataclass(frozen=True)
class FittedBaselines:
    """A finished run: its directory, a row of held-out metrics per dictionary, and the dictionaries by name."""

    directory: Path
    results: pl.DataFrame
    dictionaries: Mapping[str, Baseline]


def fit(
    recording: ActivationStore | ActivationDataModule | str | Path,
    layer: int,
    baselines: Mapping[str, BaselineSettings],
    *,
    settings: FitSettings | None = None,
    directory: str | Path | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> FittedBaselines:
    """Fit the baselines in shared passes over the training tokens, save them and evaluate them on the held-out images.

    A signal or Ctrl-C saves a checkpoint and exits with 128 + signal; the same call with the same `directory` resumes it.

    Args:
        recording: a recording or its directory; or a datamodule, which then determines tokens, batches and held-out images.
        layer: block index; negative ones count from the last recorded block.
        baselines: the settings of each baseline by name; PCA yields a dictionary "<name>,k=<k>" for each of its k.
        settings: what all baselines share.
        directory: where the run is written; None: a new directory below outputs/fit.
        configuration: what config.yaml holds, and is compared when the directory is used again; None: these arguments.

    Raises:
        ValueError: a setting does not fit the recording, or `directory` holds a run with other settings.
    """
    if isinstance(recording, ActivationDataModule) and recording.layer != layer:
        raise ValueError(
            f"layer={layer}: the datamodule has layer={recording.layer}; pass the same value, or a recording."
        )
    if isinstance(recording, ActivationDataModule) and recording.reader == "live":
        raise ValueError("datamodule.reader=live: baselines read the activations several times; give a recording.")
    settings, directory = settings or FitSettings(), Path(directory or new_directory("fit"))
    data = recording if isinstance(recording, ActivationDataModule) else stream(recording, layer, settings)
    answer_slurm()
    with open_run(directory, configuration or arguments(data, baselines, settings), may_differ=MAY_DIFFER):
        data.whole_batch = True  # baselines do not depend on how tokens are divided into batches
        data.prepare_data()
        data.setup("fit")
        return run(data, baselines, settings, directory)


def stream(recording: ActivationStore | str | Path, layer: int, settings: FitSettings) -> ActivationDataModule:
    """The training and held-out batches of a recording."""
    root = recording.location.root if isinstance(recording, ActivationStore) else str(recording)
    return ActivationDataModule(
        root, layer, settings.batch_size, tokens=settings.tokens, ignore_labels=settings.ignore_labels,
        subset_tokens=settings.subset_tokens, seed=settings.data_seed, pool=max(1 << 20, 4 * settings.batch_size),
    )  # fmt: skip


def arguments(
    data: ActivationDataModule, baselines: Mapping[str, BaselineSettings], settings: FitSettings
) -> dict[str, Any]:
    """The arguments of a call as config.yaml holds them."""
    rows = {name: {"baseline": of.kind, **dataclasses.asdict(of)} for name, of in baselines.items()}
    return {"dataset": data.dataset, "layer": data.layer, "baselines": rows, **dataclasses.asdict(settings)}


def run(
    data: ActivationDataModule, baselines: Mapping[str, BaselineSettings], settings: FitSettings, directory: Path
) -> FittedBaselines:
    """All passes over the training tokens, then the dictionaries and their held-out metrics."""
    from saev.recipes.trainer import provenance

    assert data.store is not None
    normaliser = Normaliser.fit(data.store.moments(data.layer, data.tokens), settings.normalise)
    device = resolve_device(settings.device)
    fitters = {name: baseline.build() for name, baseline in baselines.items()}
    history = directory / "metrics.jsonl"
    passes = Passes(fitters, data, normaliser, device, directory / CHECKPOINT, history, settings.save_every_s)
    n_tokens = passes.plan.n_tokens
    log.info("run directory: %s", directory)
    log.info("fitting %s on %d tokens of %d images", "; ".join(fitters), n_tokens, len(data.train_examples))
    passes.start()
    passes.run()
    dictionaries, hyperparameters = {}, {}
    for name, fitter in fitters.items():
        for suffix, dictionary in fitter.dictionaries().items():
            full = ",".join(filter(None, (name, suffix)))
            dictionaries[full] = dictionary.to(device).eval()
            hyperparameters[full] = {**baselines[name].row(), **dictionary.settings()}
    metrics = measure(
        dictionaries, Selection(data.store, data.layer, data.val_examples, data.tokens, data.ignore_labels),
        min(data.batch_size, MEASURED), device, correlation_latents=0, progress=True,
    )  # fmt: skip
    rows, trained_on = [], {**provenance(data, settings.normalise), "tokens": n_tokens}
    for name, dictionary in dictionaries.items():
        scalars = {key: value for key, value in metrics[name].items() if not isinstance(value, list)}
        save_dictionary(
            dictionary,
            directory / "saes" / name,
            hyperparameters=hyperparameters[name],
            provenance=trained_on,
            metrics=scalars,
        )
        row = {"member": name, **hyperparameters[name], "d_sae": dictionary.n_latents, **data.where(), **metrics[name]}
        rows.append({**row, "train_tokens": n_tokens, "failed": False})
    write_table(directory, "results", rows)
    if not settings.keep_checkpoint:
        (directory / CHECKPOINT).unlink(missing_ok=True)
    return FittedBaselines(directory, pl.DataFrame(rows, infer_schema_length=None), dictionaries)
