"""The top images of latents: one pass over a layer, for several dictionaries at once.

store.read ──batches of whole images──▶ encode, per dictionary ──max over each image's tokens──▶ running top n
                                                            └──▶ firings, sums of codes
Codes on disk give the same without a pass: their view by image is pooled already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor, nn

from saev.codes.store import CodeStore
from saev.dictionary import Dictionary
from saev.progress import bar
from saev.shards import ActivationStore

NONE = -1  # in `example`: the latent fires on fewer images


@dataclass
class Survey:
    """Statistics of one dictionary over the tokens seen so far; latents are rows.

    `value[latent, i]` is the largest code on the tokens of image `example[latent, i]`, best image first; images on which
    the latent does not exceed 0 are left out. Equal values keep the order of the store.
    """

    value: Float[Tensor, "n_latents n"]
    example: Int64[Tensor, "n_latents n"]
    firings: Int64[Tensor, " n_latents"]  # tokens with a code that is not 0
    value_sum: Float[Tensor, " n_latents"]  # float64
    images: Int64[Tensor, " n_latents"]  # images with at least one token above 0
    n_tokens: int = 0
    n_images: int = 0

    @classmethod
    def empty(cls, n_latents: int, n: int) -> "Survey":
        """Nothing seen yet."""
        firings, images = torch.zeros(2, n_latents, dtype=torch.int64)
        values, examples = torch.zeros(n_latents, n), torch.full((n_latents, n), NONE)
        return cls(values, examples, firings, torch.zeros(n_latents, dtype=torch.float64), images)

    @property
    def frequency(self) -> Float[np.ndarray, " n_latents"]:
        """Per latent, the fraction of tokens on which it fires."""
        return self.firings.double().numpy() / max(self.n_tokens, 1)

    @property
    def mean_value(self) -> Float[np.ndarray, " n_latents"]:
        """Per latent, its mean code over the tokens on which it fires; 0 where it never does."""
        return (self.value_sum / self.firings.clamp_min(1)).numpy()

    def update(
        self, codes: Float[Tensor, "tokens n_latents"], examples: Int[Tensor, " images"], lengths: list[int]
    ) -> None:
        """Add images: `codes` holds their tokens, image after image, `lengths` the number of tokens of each."""
        codes = codes.nan_to_num(0.0, 0.0, 0.0)  # a diverged dictionary has no top images, and does not stop the pass
        fires = codes != 0
        self.firings += fires.sum(0, dtype=torch.int32).cpu()
        self.value_sum += codes.sum(0, dtype=torch.float64).cpu()
        peak = image_max(codes, lengths)
        self.images += (peak > 0).sum(0).cpu()
        self.n_tokens += len(codes)
        self.n_images += len(lengths)
        self._keep_best(peak.T.float().cpu(), examples)

    def _keep_best(self, peak: Float[Tensor, "n_latents images"], examples: Int[Tensor, " images"]) -> None:
        numbers = torch.where(peak > 0, examples, NONE)
        values = torch.cat([self.value, peak.clamp_min(0)], 1)
        # stable: of equal values the image seen first stays first, however the pass is cut into batches
        best = values.sort(dim=1, descending=True, stable=True).indices[:, : self.value.shape[1]]
        self.value = values.gather(1, best)
        self.example = torch.cat([self.example, numbers], 1).gather(1, best)


def image_max(codes: Float[Tensor, "tokens n_latents"], lengths: list[int]) -> Float[Tensor, "images n_latents"]:
    """Per image and latent, the largest code over the image's tokens, which follow each other in `codes`."""
    if len(set(lengths)) == 1:  # six times as fast, and the usual case
        return codes.view(len(lengths), lengths[0], -1).amax(1)
    return torch.segment_reduce(codes, "max", lengths=torch.tensor(lengths, device=codes.device), axis=0)


@torch.inference_mode()
def survey(
    members: Mapping[str, Dictionary | CodeStore],
    store: ActivationStore,
    layer: int,
    examples: Sequence[int] | Int[np.ndarray, " images"],
    tokens: str = "patches",
    n: int = 8,
    batch_tokens: int = 8192,
    progress: bool = False,
) -> dict[str, Survey]:
    """Per dictionary, the `n` best images of each latent and its firings over the given images, read once for all.

    Codes given instead of their dictionary are read from disk, without activations. Memory: one batch of activations, one batch of
    codes, and per dictionary `n_latents * (n + images per batch)` values.
    """
    assert not any(isinstance(d, nn.Module) and d.training for d in members.values()), "dictionaries in eval mode"
    surveys = {
        name: survey_of_codes(d, examples, n) if isinstance(d, CodeStore) else Survey.empty(d.n_latents, n)
        for name, d in members.items()
    }
    encoded = {name: d for name, d in members.items() if not isinstance(d, CodeStore)}
    if not encoded:
        return surveys
    lengths = token_counts(store, layer, examples, tokens)
    batches = whole_images(np.asarray(examples, np.int64), lengths, batch_tokens)
    with bar("Top images", len(batches), visible=progress) as advance:
        for batch, sizes in batches:
            acts = torch.from_numpy(np.concatenate([store.read(layer, int(e), tokens) for e in batch]))
            for name, dictionary in encoded.items():
                codes = dictionary.encode(acts.to(dictionary.atoms.device).float())
                surveys[name].update(codes, torch.from_numpy(batch), sizes)
            advance(1)
    return surveys


def survey_of_codes(codes: CodeStore, examples: Sequence[int] | Int[np.ndarray, " images"], n: int) -> Survey:
    """The survey of the given images from codes that have them, by image; images without tokens are left out."""
    table = codes.images
    example = table["example"].to_numpy()
    rows = np.flatnonzero(np.isin(example, examples))
    n_tokens = (table["rows"].struct.field("stop") - table["rows"].struct.field("start")).to_numpy()[rows]
    peak, active, mean = (codes.pooled(kind)[rows] for kind in ("max", "active", "mean"))
    latent, image = peak.indices, np.repeat(np.arange(len(rows)), np.diff(peak.indptr))
    n_latents = codes.n_latents
    found = Survey.empty(n_latents, n)
    found.firings = torch.from_numpy(np.bincount(latent, active.data, n_latents).astype(np.int64))
    found.value_sum = torch.from_numpy(np.bincount(latent, mean.data.astype(np.float64) * n_tokens[image], n_latents))
    positive = peak.data > 0
    latent, image, value = latent[positive], image[positive], peak.data[positive]
    images = np.bincount(latent, minlength=n_latents)
    found.images, found.n_tokens, found.n_images = torch.from_numpy(images), int(n_tokens.sum()), len(rows)
    order = np.lexsort((-value, latent))  # stable: equal values keep the order of the images
    rank = np.arange(len(order)) - np.repeat(np.cumsum(images) - images, images)
    best, rank = order[rank < n], rank[rank < n]
    found.value.numpy()[latent[best], rank] = value[best]
    found.example.numpy()[latent[best], rank] = example[rows][image[best]]
    return found


def token_counts(
    store: ActivationStore, layer: int, examples: Sequence[int] | Int[np.ndarray, " images"], tokens: str
) -> Int64[np.ndarray, " images"]:
    """How many tokens of the selection each of the given images has; 0 for images that could not be read."""
    stored = store.tokens_per_image(layer)[np.asarray(examples, np.int64)]
    start, stop = store.role_slice(tokens)
    return np.maximum((stored if stop < 0 else np.minimum(stored, stop)) - start, 0)


def whole_images(
    examples: Int[np.ndarray, " images"], lengths: Int64[np.ndarray, " images"], batch_tokens: int
) -> list[tuple[Int[np.ndarray, " batch"], list[int]]]:
    """Batches of consecutive images, with their lengths, of about `batch_tokens` tokens each; without empty images."""
    examples, lengths = examples[lengths > 0].astype(np.int64), lengths[lengths > 0]
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // batch_tokens)) + 1
    pairs = zip(np.split(examples, cuts), np.split(lengths, cuts), strict=True)
    return [(batch, sizes.tolist()) for batch, sizes in pairs if len(batch)]


@torch.inference_mode()
def heatmaps(
    dictionary: Dictionary | CodeStore, store: ActivationStore, layer: int, example: int, latents: Sequence[int]
) -> Float32[np.ndarray, "latents grid_h grid_w"]:
    """Codes of the patch tokens of one image, in the layout of the patches (row 0 is the top of the picture), for several latents.

    The image must have a grid. Patches that codes on disk leave out are 0.
    """
    if isinstance(dictionary, CodeStore):
        return np.stack([np.nan_to_num(dictionary.map(latent, example), nan=0.0) for latent in latents])
    acts = torch.from_numpy(store.read(layer, example, "patches").copy())
    codes = dictionary.encode(acts.to(dictionary.atoms.device).float())[:, list(latents)]
    size = grid(store, example)
    assert size is not None, "the caller asks for heat maps of images with a grid"
    return codes.T.float().cpu().numpy().reshape(len(latents), *size)


def grid(store: ActivationStore, example: int) -> tuple[int, int] | None:
    """Patches down and across of one image; None where the recording does not say, as of tensors and foreign shards."""
    row = store.examples.row(example, named=True)
    height, width = row.get("grid_h"), row.get("grid_w")
    return None if height is None or width is None else (int(height), int(width))
