"""A grid of linear probes: fit, validate, and save the best one of each input.

linear.json         a row per probe
linear/<input>/     the chosen probe: probe.safetensors (weight, bias) and classes.json
checkpoints/        the state from which an interrupted fit resumes
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Int64, Integer
from safetensors.torch import save

from callbacks import Checkpoint
from datamodules import LabelledDataModule
from saev.dictionary import Dictionary
from saev.files import write_atomically
from saev.nn.normalise import Normaliser
from saev.probing.labels import Labels, TokenLabels
from saev.recipes.linear_intervals import image_intervals
from saev.recipes.linear_maps import map_numbers
from saev.runs.signals import answer_slurm
from saev.shards import ActivationStore
from saev.shards.split import groups_of
from saev.training.lightning import leave_processes, quieten_lightning
from saev.training.linear.inputs import Input, inputs_of
from saev.training.linear.loss import class_weights, prior_logits
from saev.training.linear.module import ProbeDDP, ProbeModule
from saev.training.linear.probe import grid
from saev.training.linear.settings import LinearProbeSettings

log = logging.getLogger(__name__)

BATCH_SIZE = 4096  # tokens, where there are enough
RESULTS, CHECKPOINT = "linear.json", "checkpoints/last.ckpt"
Images = tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]
Masks = Callable[[int], Integer[np.ndarray, "height width"] | None]


def fit_linear(
    settings: LinearProbeSettings,
    store: ActivationStore | tuple[ActivationStore, ActivationStore],
    layer: int,
    images: Images | None,
    members: Mapping[str, Dictionary],
    directory: str | Path,
    *,
    labels: tuple[Labels, Labels] | None = None,
    ignore_labels: tuple[int, ...] = (),
    masks: Masks | None = None,
    tokens: str = "patches",
    classes: Sequence[int] | None = None,
    group: str | None = None,
    bootstrap: int = 0,
) -> list[dict[str, Any]]:
    """A row per probe of the grid: its settings, its epochs and its numbers on the validation images.

    A fifth of the training images is left out of the fits: the loss on it ends epochs and chooses the probe of each input, so that
    nothing is chosen by the images that are reported.

    Columns: input, lr, weight_decay, weights, epochs, best_epoch, failed, `chosen`, selection_loss (of the best epoch, on the images
    left out); ce and loss (nats per token; loss is weighted by class), accuracy and miou of single tokens, ap (per class, None
    without a positive) and map, their mean over `classes`; for chosen probes also the intervals of `image_intervals`, and of patch
    labels `map_numbers`.

    Resumes an interrupted call with the same arguments; the rows of a finished one are read. SystemExit(128 + signal) when a
    signal stopped the fit.

    Args:
        store: one recording, or (training, validation).
        images: (training, validation) image numbers; None: all, with a tenth held out of a single recording.
        members: dictionaries by name, for `settings.inputs`.
        labels: of the recordings; None: their patch labels, without `ignore_labels`.
        masks: returns the label ids of a validation image's pixels, cropped as for the backbone; None without a mask.
        classes: numbers of the classes that `map` is the mean of; None: all.
        group: column of examples.parquet: images of one group are on one side of the inner split, and are resampled together.
        bootstrap: resamples of the validation images, for 95 % intervals; 0: none.
    """
    answer_slurm()
    quieten_lightning()
    directory = Path(directory)
    train, validation = store if isinstance(store, tuple) else (store, None)
    batches = {"tokens": tokens, "seed": settings.seed, "pool": max(1 << 20, 4 * (settings.batch_size or 0))}
    data = LabelledDataModule(
        train, layer, settings.batch_size or 1, validation=validation, images=images, labels=labels,
        ignore_labels=ignore_labels, **batches,
    )  # fmt: skip
    data.setup()
    assert data.labels is not None
    if data.classes is None and labels is not None and isinstance(labels[0], TokenLabels):
        data.classes = labels[0].classes
    of_train = data.labels[0], data.labels[0]
    fitting = LabelledDataModule(
        train,
        layer,
        settings.batch_size or 1,
        images=selection_split(train, data.train_examples, settings.seed, group),
        labels=of_train,
        **batches,
    )
    fitting.setup()
    if settings.batch_size is None:
        fitting.batch_size = data.batch_size = min(BATCH_SIZE, max(1, fitting.class_counts()[0] // 8))
    extra = {"classes": None if classes is None else list(classes), "group": group, "bootstrap": bootstrap}
    identity = identity_of(settings, data, members) | extra
    if (done := finished(directory, identity)) is not None:
        log.info("finished already: %s", directory)
        return done
    module, normaliser = build(settings, fitting, members)
    trainer = build_trainer(settings, module, directory)
    try:
        saved = directory / CHECKPOINT if (directory / CHECKPOINT).is_file() else None
        trainer.fit(module, fitting, ckpt_path=saved, weights_only=True if saved else None)
        checkpoint = next(c for c in trainer.callbacks if isinstance(c, Checkpoint))  # type: ignore[attr-defined]
        if checkpoint.received:
            raise SystemExit(128 + checkpoint.received)
        module.restore_best()
        trainer.validate(module, data, verbose=False)
        rows = collect(settings, data, module, masks, classes)
        if bootstrap:
            for i in module.chosen().values():
                rows[i] |= image_intervals(data, module, i, rows[i], classes, group, bootstrap, settings.seed)
        if trainer.is_global_zero:
            for name, i in module.chosen().items():
                save_probe(directory / "linear" / name, module, i, data, normaliser)
            write_atomically(directory / RESULTS, json.dumps({"settings": identity, "rows": rows}).encode())
        return rows
    finally:
        leave_processes(trainer)


def selection_split(
    store: ActivationStore, train: Int64[np.ndarray, " images"], seed: int, group: str | None = None
) -> Images:
    """(images to fit, a fifth of the images, or of their groups, to choose by). ValueError for a single one."""
    train = np.sort(train)
    number = groups_of(store, train, group)
    order = np.random.default_rng(seed).permutation(number.max(initial=0) + 1)
    if len(order) < 2:
        raise ValueError(
            f"linear probes need at least 2 labelled training {'images' if group is None else f'groups (group={group})'}: one is "
            "fitted, the other chooses the epoch."
        )
    chooses = np.isin(number, order[: max(1, len(order) // 5)])
    return train[~chooses], train[chooses]


def build(
    settings: LinearProbeSettings, data: LabelledDataModule, members: Mapping[str, Dictionary]
) -> tuple[ProbeModule, Normaliser]:
    """The grid, with the normaliser and the class frequencies of the training data."""
    assert data.store is not None and data.labels is not None
    normaliser = Normaliser.fit(data.store.moments(data.layer, data.tokens), settings.normalise)
    inputs: dict[str, Input] = inputs_of(settings.inputs, normaliser, members)
    n_tokens, counts = data.class_counts()
    positives, exclusive = torch.from_numpy(counts), data.labels[0].exclusive
    specs = grid(list(inputs), settings.lrs, settings.weight_decays)
    module = ProbeModule(
        specs, inputs, prior_logits(n_tokens, positives, exclusive), exclusive,
        data.n_steps(int(settings.trainer["devices"])), settings.patience,
        class_weights(settings.weights, n_tokens, positives, exclusive),
    )  # fmt: skip
    log.info("fitting %d linear probes of %d classes on %d tokens", len(specs), len(counts), n_tokens)
    return module, normaliser


def build_trainer(settings: LinearProbeSettings, module: ProbeModule, directory: Path) -> L.Trainer:
    """A trainer that validates and saves a checkpoint at the end of each epoch."""
    several = int(settings.trainer["devices"]) > 1
    quiet: dict[str, Any] = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    return L.Trainer(
        **{"strategy": ProbeDDP() if several else "auto", **settings.trainer},
        max_steps=settings.max_epochs * module.steps_per_epoch, max_epochs=-1,
        val_check_interval=module.steps_per_epoch, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        callbacks=[Checkpoint(directory / CHECKPOINT, module.steps_per_epoch)], logger=False,
        use_distributed_sampler=False, default_root_dir=directory, **quiet,
    )  # fmt: skip


def collect(
    settings: LinearProbeSettings,
    data: LabelledDataModule,
    module: ProbeModule,
    masks: Masks | None,
    classes: Sequence[int] | None,
) -> list[dict[str, Any]]:
    """The rows, with maps of the chosen probes."""
    rows: list[dict[str, Any]] = [{**row, "weights": settings.weights, "chosen": False} for row in module.rows]
    for row, probe in zip(rows, module.probes, strict=True):
        row["selection_loss"] = float(probe.best_loss)  # type: ignore[arg-type]
        if classes is not None:
            aps = [row["ap"][c] for c in classes if not math.isnan(row["ap"][c])]
            row["map"] = sum(aps) / len(aps) if aps else math.nan
    for i in module.chosen().values():
        rows[i] |= {"chosen": True}
        if data.classes is not None and data.tokens == "patches":
            rows[i] |= map_numbers(data, module, i, settings.map_size, masks)
    return [{key: none_if_nan(value) for key, value in row.items()} for row in rows]


def none_if_nan(value: Any) -> Any:
    """The value; None for NaN, also in lists.

    >>> none_if_nan([0.5, math.nan]), none_if_nan(math.inf), none_if_nan("raw")
    ([0.5, None], inf, 'raw')
    """
    if isinstance(value, list):
        return [none_if_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def save_probe(folder: Path, module: ProbeModule, i: int, data: LabelledDataModule, normaliser: Normaliser) -> None:
    """Save a probe: its parameters, the normalisation of raw activations, and its classes."""
    probe: Any = module.probes[i]
    tensors = {"weight": probe.weight.detach(), "bias": probe.bias.detach()}
    if probe.spec.input == "raw":
        tensors |= {"mean": normaliser.mean, "scale": normaliser.scale}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "probe.safetensors", save({name: t.cpu().contiguous() for name, t in tensors.items()}))
    classes = None if data.classes is None else data.classes.info()
    write_atomically(folder / "classes.json", json.dumps(classes).encode())


def identity_of(
    settings: LinearProbeSettings, data: LabelledDataModule, members: Mapping[str, Dictionary]
) -> dict[str, Any]:
    """What the results depend on, as JSON values."""
    fitting = {key: value for key, value in dataclasses.asdict(settings).items() if key != "trainer"}
    names = {name: member.n_latents for name, member in members.items()}
    return json.loads(json.dumps({**fitting, "data": data.state_dict(), "members": names}, default=list))


def finished(directory: Path, identity: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an earlier, finished call; None without one; ValueError where its settings differ."""
    path = directory / RESULTS
    if not path.is_file():
        return None
    saved = json.loads(path.read_text())
    if saved["settings"] != identity:
        changed = sorted(key for key in identity if saved["settings"].get(key) != identity[key])
        raise ValueError(f"{path} has the results of other settings ({', '.join(changed)}): choose another directory.")
    return saved["rows"]
