"""What is compared of dictionaries: atoms, atoms at the start of training, and codes pooled over images."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import csc_matrix
from torch import Tensor

from saev.dictionary import Dictionary, Scorer
from saev.progress import bar
from saev.saved import SavedDictionary, shared_passes
from saev.scoring.against import settings_of
from saev.scoring.images_of_latents import dense, standardised, top_images
from saev.scoring.pooling import pooled_scores
from saev.shards.selected_tokens import Selection
from saev.vits.activation_site import GEOMETRY, differences

TOP = 20  # images of a latent whose Jaccard is taken


@dataclasses.dataclass(frozen=True, eq=False)
class Compared:
    """A dictionary as it is compared with others.

    Args:
        atoms: as directions of raw activations; rows of zeros where training diverged.
        start: the same of the atoms at the start of training, row i that of latent i; None where they were not saved.
        codes: the largest code on each of the selection's images; None: atoms alone are compared.
        settings: equal for dictionaries that differ in nothing but their seed.
        vit: the identity of the backbone, empty where it is not known.
    """

    name: str
    atoms: Float[Tensor, "n_latents d_model"]
    start: Float[Tensor, "n_latents d_model"] | None
    codes: csc_matrix | None
    selection: Selection | None
    settings: str
    vit: Mapping[str, Any]

    def shares_space(self, other: "Compared") -> bool:
        """Whether atoms can be compared: of one width, and not known to be of two backbones."""
        known = self.vit and other.vit
        differ = known and differences(self.vit, other.vit, ("name", *GEOMETRY))
        return self.atoms.shape[1] == other.atoms.shape[1] and not differ

    def strongest(self) -> Int64[Tensor, " n_latents"]:
        """Latents by falling energy: the sum over images of (largest code * length of the atom)^2; needs codes."""
        assert self.codes is not None, "energy needs codes"
        squares = torch.from_numpy(np.asarray(self.codes.power(2).sum(0), np.float64).ravel()).to(self.atoms.device)
        return (squares * self.atoms.double().square().sum(1)).argsort(descending=True, stable=True)


def compared(
    saved: Sequence[SavedDictionary],
    members: Mapping[str, Dictionary],
    selections: Mapping[str, Selection],
    starts: Mapping[str, Tensor | None],
    batch_size: int = 4096,
    device: str = "cpu",
    progress: bool = False,
) -> list[Compared]:
    """The dictionaries as they are compared; codes of those that have a selection of tokens, in one pass per selection.

    starts: atoms at the start of training as they are saved, in the space of `Dictionary.atoms`.
    """
    directed = {one.name: directions(members[one.name]).detach().float() for one in saved}
    whole = {name: selections[name] for name in selections if directed[name].isfinite().all()}
    codes: dict[str, csc_matrix] = {}
    total = sum(whole[group[0]].spans.n_tokens for group in shared_passes(whole))
    with bar("Codes of images", total, visible=progress and bool(total)) as advance:
        for group in shared_passes(whole):
            together = {name: members[name] for name in group}
            codes |= pooled_codes(together, whole[group[0]], batch_size, device, advance)
    return [
        Compared(
            one.name,
            directed[one.name].nan_to_num(0, 0, 0),
            None if (rows := starts.get(one.name)) is None else directions(members[one.name], rows).detach().float(),
            codes.get(one.name),
            whole.get(one.name),
            without_seed(one),
            one.provenance.get("vit") or {},
        )
        for one in saved
    ]


def pooled_codes(
    members: Mapping[str, Dictionary],
    selection: Selection,
    batch_size: int,
    device: str,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, csc_matrix]:
    """The largest code of each latent on each of the selection's images [images, n_latents]."""
    scorers = {name: Scorer(one) for name, one in members.items()}
    pooled = pooled_scores(scorers, selection, dict.fromkeys(members, "max"), batch_size, device, advance)
    return {name: csc_matrix(pooled.pop(name)) for name in members}


def directions(dictionary: Dictionary, rows: Tensor | None = None) -> Float[Tensor, "n_latents d_model"]:
    """Atoms, or such `rows`, in the space of raw activations: with normalise=standardise, times the scale of each dimension."""
    rows = dictionary.atoms if rows is None else rows.to(dictionary.atoms)
    scale = getattr(getattr(dictionary, "normaliser", None), "scale", None)
    return rows if scale is None or scale.ndim == 0 else rows * scale


def without_seed(one: SavedDictionary) -> str:
    """`settings_of` without the seed: equal for the seeds of one method."""
    return json.dumps({k: v for k, v in settings_of(one).items() if k != "seed"}, sort_keys=True, default=str)


def at_most(selection: Selection, n: int) -> Selection:
    """The selection with at most n of its images, evenly spaced."""
    kept = np.unique(np.linspace(0, len(selection.images) - 1, min(n, len(selection.images))).astype(np.int64))
    return dataclasses.replace(selection, images=selection.images[kept])


Rows = Int64[np.ndarray, " images"]


def common_images(a: Selection | None, b: Selection | None) -> tuple[Rows, Rows]:
    """The rows of the images that both have: by number in recordings of one fingerprint, else by their path."""
    if a is None or b is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if a.store.manifest.fingerprint == b.store.manifest.fingerprint:
        keys: list[np.ndarray] = [a.images, b.images]
    elif "path" in a.store.examples.columns and "path" in b.store.examples.columns:
        keys = [one.store.examples["path"].fill_null("").to_numpy()[one.images].astype(str) for one in (a, b)]
    else:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    both, rows_a, rows_b = np.intersect1d(keys[0], keys[1], return_indices=True)
    named = both != ("" if both.dtype.kind == "U" else -1)
    return rows_a[named].astype(np.int64), rows_b[named].astype(np.int64)


class CodeVectors(NamedTuple):
    """Latents over images: rows of which similarities are taken."""

    standardised: Float[Tensor, "n_latents images"]
    top: Float[Tensor, "n_latents images"]  # 1 for the images with the TOP largest codes above 0


def code_vectors(one: Compared, rows: bytes) -> CodeVectors:
    """The latents over these rows (int64) of its images, on the device of the atoms."""
    assert one.codes is not None, "compared by atoms alone"
    numbers = np.frombuffer(rows, np.int64)
    codes = one.codes if len(numbers) == one.codes.shape[0] and (np.diff(numbers) == 1).all() else one.codes[numbers]  # type: ignore[index]
    made = standardised(dense(codes)), top_images(codes, TOP)
    return CodeVectors(*(torch.from_numpy(x).to(one.atoms.device) for x in made))
