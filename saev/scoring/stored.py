"""Pooled codes of images from the codes on disk of sparse dictionaries."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from scipy.sparse import csc_matrix

from saev.codes.encoding import DENSE, density, encode
from saev.codes.manifest import CodesManifest, identify
from saev.codes.settings import EncodeSettings
from saev.codes.store import CodeStore
from saev.saved import SavedDictionary, select_tokens
from saev.shards.manifest import FILE
from saev.shards.selected_tokens import Selection


def is_dense(one: SavedDictionary, selection: Selection, device: str) -> bool:
    """Whether a dictionary's codes are too dense to be stored as pairs."""
    return density(one.load(device), selection, None) > DENSE


def stored_codes(
    one: SavedDictionary, selection: Selection, out: str | os.PathLike | None, batch_size: int, device: str
) -> CodeStore:
    """The codes of a sparse dictionary on the recording; encoded where `out` does not hold them yet."""
    settings = EncodeSettings(selection.tokens, batch_size=batch_size, device=device)
    everything = select_tokens(one, selection.store, layer=selection.layer, tokens=selection.tokens, examples="all")
    manifest = CodesManifest.of(identify(one), one.config["n_latents"], everything, settings)
    root = Path(os.environ.get("SAEV_OUTPUTS", "outputs"), "codes") if out is None else Path(out)
    if (root / manifest.name / FILE).is_file():
        stored = CodesManifest.load(root / manifest.name)
        if stored.complete and "image" in stored.views:
            return CodeStore(root / manifest.name)
    (codes,) = encode(one, selection.store, settings, layer=selection.layer, out=out, progress=True)
    return codes


def pooled_codes(codes: CodeStore, images: Int64[np.ndarray, " images"], pool: str) -> csc_matrix:
    """Pooled codes of these images, in their order."""
    encoded = codes.images["example"].to_numpy()
    row = np.searchsorted(encoded, images)
    assert (encoded[row] == images).all(), "every image has selected tokens"
    return codes.pooled(pool)[row].tocsc()
