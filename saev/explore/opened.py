"""One dictionary with its codes, atoms, table of latents, recording and photos."""

import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float32
from scipy.sparse import csr_matrix

from saev.annotations import annotate, names
from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.explore import errors
from saev.explore.latent import norms
from saev.explore.latents import latent_table
from saev.saved import SavedDictionary
from saev.shards import ActivationStore
from saev.visuals.pictures import Album


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A dictionary and its codes. Arrays are memory-mapped but for the atoms and the norms."""

    one: SavedDictionary
    codes: CodeStore
    album: Album  # of small photos
    large: Album
    files: dict[str, list[Path]]
    store: ActivationStore | None = None  # the recording; None: no reconstruction errors

    @cached_property
    def latents(self) -> pl.DataFrame:
        """See `latent_table`."""
        return latent_table(self.codes, self.one, self.files, names(self.folder))

    @cached_property
    def labels(self) -> dict[str, int]:
        """The text by which each encoded image is searched (number, class, path) -> its number in the recording."""
        images = self.codes.images
        classes = (
            images["class"].cast(pl.String) if "class" in images.columns else pl.repeat(None, len(images), eager=True)
        )
        rows = zip(images["example"].to_list(), classes.to_list(), images["path"].to_list(), strict=True)
        return {": ".join([str(example), *([label] if label else []), path]): example for example, label, path in rows}

    @property
    def folder(self) -> Path:
        """The folder of the dictionary."""
        assert self.one.path is not None, "found in a directory"
        return self.one.path

    def annotate(self, latent: int, name: str, note: str = "", confidence: float | None = None) -> None:
        """Name a latent in the dictionary's annotations.csv; ValueError where that cannot be done."""
        annotate(self.folder, latent, name, note=note, confidence=confidence)
        self.__dict__.pop("latents", None)  # made anew with the name

    @cached_property
    def pooled(self) -> csr_matrix:
        """The largest code of each image and latent."""
        return self.codes.pooled("max")

    @cached_property
    def norms(self) -> Float32[np.ndarray, " n_latents"]:
        """The norm of each latent's pooled codes."""
        return norms(self.pooled)

    @cached_property
    def dictionary(self) -> Dictionary:
        """The dictionary, on the CPU."""
        return self.one.load("cpu")

    @cached_property
    def unit_atoms(self) -> Float32[np.ndarray, "n_latents d_model"]:
        """The atoms, scaled to length 1."""
        atoms = self.dictionary.atoms.detach().float().numpy()
        return atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)

    @cached_property
    def mean_error(self) -> float:
        """The mean squared distance of the recording's tokens from their mean, of which errors are fractions."""
        assert self.store is not None, "asked for where there is a recording"
        return errors.mean_error(self.store, self.codes.manifest.layer, self.codes.manifest.tokens)

    def errors(self, example: int) -> Float32[np.ndarray, "grid_h grid_w"] | None:
        """See `patch_errors`; None without a recording or a grid."""
        if self.store is None:
            return None
        return errors.patch_errors(self.dictionary, self.codes, self.store, example, self.mean_error)

    @cached_property
    def examples(self) -> np.ndarray:
        """The numbers of the encoded images in the recording, ascending."""
        return self.codes.images["example"].to_numpy()

    def warm(self) -> "Opened":
        """Read what every click needs, so that the first is as quick as the others."""
        _ = self.latents, self.norms, self.unit_atoms, self.examples, self.codes.spans
        for shard in range(len(self.codes.manifest.shards)):
            self.codes.array(shard, "indptr")  # compares its sha256
        return self
