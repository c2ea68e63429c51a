"""Small recordings and dictionaries for the bench's tests."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from recordings import record

from saev.dictionary_bench.image_codes import ImageCodes
from saev.nn import SparseAutoencoder, TopK
from saev.shards import ActivationStore
from saev.shards.selected_tokens import Selection


@dataclasses.dataclass
class Linear:
    """A dictionary of given atoms whose codes are projections beyond a threshold: signed, or only the positive ones."""

    atoms: torch.Tensor
    threshold: float
    signed: bool = False

    @property
    def d_model(self) -> int:
        return self.atoms.shape[1]

    @property
    def n_latents(self) -> int:
        return self.atoms.shape[0]

    def encode(self, acts: torch.Tensor) -> torch.Tensor:
        codes = (acts - 2) @ self.atoms.T
        return torch.where((codes.abs() if self.signed else codes) > self.threshold, codes, 0.0)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes @ self.atoms + 2


def linear(n_latents: int = 48, threshold: float = 2.0, signed: bool = False, seed: int = 0) -> Linear:
    atoms = torch.nn.functional.normalize(torch.randn(n_latents, 16, generator=torch.manual_seed(seed)), dim=1)
    return Linear(atoms, threshold, signed)


def topk(n_latents: int = 48, k: int = 4, seed: int = 1) -> SparseAutoencoder:
    torch.manual_seed(seed)
    sae = SparseAutoencoder(16, n_latents, TopK(k=k))
    torch.nn.init.normal_(sae.w_dec)
    sae.w_dec.data = torch.nn.functional.normalize(sae.w_dec.data, dim=1)
    sae.encoder.data = sae.w_dec.data.clone()
    sae.b_dec.data += 2
    return sae


def selection(root: Path, tokens: str = "patches", **settings) -> Selection:
    store = ActivationStore(record(root, **settings))
    return Selection(store, 1, np.arange(store.manifest.n_examples), tokens)


def dense_acts(selected: Selection) -> torch.Tensor:
    """[images, tokens, d_model]."""
    acts = [selected.store.read(selected.layer, i, selected.tokens) for i in selected.images.tolist()]
    return torch.from_numpy(np.stack(acts)).float()


def dense_max(codes: ImageCodes) -> np.ndarray:
    """[images, latents]."""
    return codes.pooled.toarray()
