"""What `saev.probe` reads, opened and validated before anything slow: dictionaries or codes, their layer, labelled tokens."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saev.checkpoint import WEIGHTS
from saev.codes.manifest import holds_codes
from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.probing.passes import CodesOnDisk, Encoder, Source
from saev.probing.settings import ProbeSettings
from saev.probing.sparse.references import RAW, UNTRAINED
from saev.probing.splits import LabelledData, labelled_data
from saev.saved import SavedDictionary, find_dictionaries, layer_of, open_recording
from saev.saved_folders import names
from saev.shards import ActivationStore
from saev.shards.manifest import FILE

Recording = ActivationStore | str | os.PathLike
Probed = str | os.PathLike | SavedDictionary | CodeStore
ALL_PAIRS = (  # settings that the statistics of all pairs depend on
    "tokens", "labels", "compat", "latent_topk", "mantissa_bits", "budget_gib", "nulls", "seed", "batch_size", "val_fraction", "group",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ProbeInputs:
    """Dictionaries that encode while probing, codes on disk by name, and the tokens that both are probed on."""

    dictionaries: Sequence[SavedDictionary]
    codes: Mapping[str, CodeStore]
    data: LabelledData
    names: Mapping[str, Mapping[int, str]] = dataclasses.field(
        default_factory=dict
    )  # of annotated latents, by dictionary

    @property
    def n_latents(self) -> dict[str, int]:
        """Latents of each dictionary, in the order of the results."""
        sizes = {one.name: int(one.config["n_latents"]) for one in self.dictionaries}
        return sizes | {name: codes.n_latents for name, codes in self.codes.items()}

    def origins(self) -> pl.DataFrame:
        """Per dictionary, and reference of the image level, the recordings that it was trained on and probed on, and the layer and
        the tokens of these."""
        train, val = self.data.splits
        trained_on = {one.name: one.provenance.get("dataset") for one in self.dictionaries}
        here = {"dataset": train.store.name, "validation": val.store.name, "layer": train.layer, "tokens": train.tokens}
        rows = [
            {"member": name, "train_dataset": trained_on.get(name), **here}
            for name in (*self.n_latents, RAW, UNTRAINED)
        ]
        return pl.DataFrame(rows, schema_overrides={"train_dataset": pl.String})

    def load(self, device: str) -> dict[str, Dictionary]:
        """The dictionaries by name."""
        return {one.name: one.load(device) for one in self.dictionaries}

    def sources(self, settings: ProbeSettings, device: str) -> list[Source]:
        """Readers of codes. ValueError where codes on disk are of other activations than the labels."""
        sources: list[Source] = []
        if self.dictionaries:
            sources.append(Encoder(self.load(device), settings.batch_size, settings.latent_topk))
        for name, codes in self.codes.items():
            source = CodesOnDisk(name, codes, settings.batch_size, device)
            for split in self.data.splits:
                source.check(split)
            sources.append(source)
        return sources

    def identity(self, settings: ProbeSettings) -> str:
        """A hash of everything that the statistics of all pairs depend on."""
        inputs: dict[str, Any] = {key: getattr(settings, key) for key in ALL_PAIRS}
        inputs |= stamps(self.dictionaries, [*self.codes.values()], settings.labels)
        inputs |= {"n_latents": self.n_latents, "ids": self.data.ids, "names": self.data.names}
        inputs["data"] = [[s.store.manifest.fingerprint, s.layer, s.images.tolist()] for s in self.data.splits]
        return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def open_inputs(
    dictionaries: Probed | Sequence[Probed] | Mapping[str, Dictionary],
    dataset: Recording,
    settings: ProbeSettings,
    *,
    validation: Recording | None = None,
    layer: int | None = None,
) -> ProbeInputs:
    """Open dictionaries and recordings, as for `saev.probe`. ValueError where they do not fit each other or the settings."""
    store, codes = _open(dataset), {}
    if not isinstance(dictionaries, Mapping):
        single = isinstance(dictionaries, str | os.PathLike | SavedDictionary | CodeStore)
        probed: list[Any] = [dictionaries] if single else list(dictionaries)
        opened = {one.root if isinstance(one, CodeStore) else Path(one): one for one in probed if is_codes(one)}
        stores = [one if isinstance(one, CodeStore) else CodeStore(one) for one in opened.values()]
        codes = dict(zip(names(list(opened)), stores, strict=True))
        dictionaries = [one for one in probed if not is_codes(one)]
        if not probed:
            raise ValueError("no dictionary is named: give directories of runs, sweeps, dictionaries or codes.")
    saved = find_dictionaries(dictionaries) if dictionaries else []
    for one in codes.values():
        check_codes(one, store, settings, validation, layer)
    layers = {one.name: layer_of(one, open_recording(one, store), layer) for one in saved}
    layers |= {str(one.root): one.manifest.layer for one in codes.values()}
    if len({*layers.values()}) > 1:
        raise ValueError(f"the dictionaries read different layers ({layers}): probe those of one layer at a time.")
    index = store.resolve_layer(next(iter(layers.values())))
    data = labelled_data(store, settings, index, None if validation is None else _open(validation))
    annotated = {name: one.names() for name, one in {**{one.name: one for one in saved}, **codes}.items()}
    return ProbeInputs(saved, codes, data, annotated)


def _open(recording: Recording) -> ActivationStore:
    return recording if isinstance(recording, ActivationStore) else ActivationStore(recording)


def is_codes(probed: Probed) -> bool:
    """Whether it is a CodeStore, or the directory of one."""
    if isinstance(probed, SavedDictionary | CodeStore):
        return isinstance(probed, CodeStore)
    return holds_codes(probed)


def check_codes(
    codes: CodeStore, store: ActivationStore, settings: ProbeSettings, validation: Recording | None, layer: int | None
) -> None:
    """ValueError for settings that codes on disk cannot follow."""
    if validation is not None:
        raise ValueError(
            f"validation={validation}: {codes.root} has codes of one recording: leave validation out, or name the dictionary "
            "instead of its codes."
        )
    if settings.latent_topk is not None:
        raise ValueError(
            f"latent_topk={settings.latent_topk}: {codes.root} was encoded before: leave latent_topk out, or encode with "
            f"latent_topk={settings.latent_topk}."
        )
    if layer is not None and store.resolve_layer(layer) != codes.manifest.layer:
        raise ValueError(f"layer={layer}: {codes.root} has codes of layer {codes.manifest.layer}; leave layer out.")


def stamps(dictionaries: Sequence[SavedDictionary], codes: Sequence[CodeStore], labels: str) -> dict[str, Any]:
    """What changes when a named file is replaced: sizes and times of saved dictionaries and codes, hashes of the rest."""
    files = [one.path / WEIGHTS for one in dictionaries if one.path is not None]
    files += [Path(one.root) / FILE for one in codes]
    stamped: dict[str, Any] = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    for one in dictionaries:
        if one.path is None:
            atoms = one.load("cpu").atoms.detach().float().numpy()
            stamped[one.name] = hashlib.sha256(np.ascontiguousarray(atoms).tobytes()).hexdigest()
    if Path(labels).is_file():
        stamped["table"] = hashlib.sha256(Path(labels).read_bytes()).hexdigest()
    return {"files": stamped}
