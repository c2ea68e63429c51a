"""One pass over recorded activations: the codes and reconstructions of several dictionaries, by image.

TokenStream ──batches of whole images──▶ per dictionary encode, decode ──▶ pooled over the tokens of each image ──▶ ImageCodes

Memory: what is returned, a batch of activations, and one dictionary's codes of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saev.codes.encoding import DENSE
from saev.codes.pairs import from_dense, sparse_codes
from saev.dictionary import Dictionary
from saev.dictionary_bench.image_codes import ImageActivations, ImageCodes
from saev.dictionary_bench.pooling import Pooled, pool_dense, pool_pairs
from saev.nn.autoencoder import SparseAutoencoder
from saev.ops.sparse import SparseCodes
from saev.progress import bar
from saev.shards.reader import ActivationStore
from saev.shards.selected_tokens import Selection
from saev.shards.selection import per_image


class Batch(NamedTuple):
    """The selected tokens of some images, one image after another."""

    acts: Float[Tensor, "tokens d_model"]
    n_tokens: Int64[np.ndarray, " images"]  # of each image
    patch: Int64[np.ndarray, " tokens"]  # its number among the image's patches
    grids: Int64[np.ndarray, "images 2"]

    @property
    def starts(self) -> Int64[np.ndarray, " images_and_1"]:
        """The first token of each image, and the end."""
        return np.concatenate([[0], np.cumsum(self.n_tokens)])


@torch.inference_mode()
def codes_by_image(
    members: Mapping[str, Dictionary],
    selection: Selection,
    batch_size: int = 4096,
    device: str = "cpu",
    progress: bool = False,
) -> dict[str, ImageCodes]:
    """The codes of each dictionary; all dictionaries are on `device`, and share one `ImageActivations`.

    `batch_size`: tokens that are encoded together, at least one image. ValueError for codes that are not finite.
    """
    spans = selection.spans
    example = np.unique(spans.example)
    tokens = per_image(spans, int(example[-1]) + 1)[example]
    grids = grids_of(selection, example, tokens)
    first_patch = selection.store.role_slice("patches")[0] if grids.any() else 0
    shift = torch.from_numpy(selection.store.moments(selection.layer, selection.tokens).mean).to(device)
    recorded: list[Float64[np.ndarray, "images numbers"]] = []
    parts: dict[str, list[tuple[Pooled, np.ndarray]]] = {name: [] for name in members}
    stream, at = selection.stream(batch_size), 0
    with bar("Encoding", len(example), visible=progress) as advance:
        for acts, token, n_tokens in whole_images(stream.batches(0, stream.n_batches)):
            x = torch.from_numpy(acts).to(device).float()
            batch = Batch(x, n_tokens, token - first_patch, grids[at : at + len(n_tokens)])
            centred = x.double() - shift
            squares = [y.square().sum(1) for y in (centred, x.double())]
            recorded.append(sums_by_image(batch, centred, x.double().sum(1), *squares))
            for name, dictionary in members.items():
                parts[name].append(encode_batch(name, dictionary, batch))
            at += len(n_tokens)
            advance(len(n_tokens))
    sums = np.concatenate(recorded)
    centred, (total, square_centred, square) = sums[:, : len(shift)], sums[:, len(shift) :].T.copy()
    mean = centred.sum(0) / tokens.sum()  # of x - shift
    variation = square_centred - 2 * centred @ mean + tokens * (mean @ mean)
    images = ImageActivations(
        selection.store.name, example, tokens, (centred / tokens[:, None] + shift.cpu().numpy()).astype(np.float32),
        total, square, np.maximum(variation, 0), grids,
    )  # fmt: skip
    return {name: assembled(images, members[name].n_latents, parts.pop(name)) for name in members}


def whole_images(
    batches: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[np.ndarray, Int64[np.ndarray, " tokens"], Int64[np.ndarray, " images"]]]:
    """Activations and numbers of tokens, cut between images, and the number of tokens of each image."""
    keys, rest = ("acts", "token", "example"), None
    for batch in batches:
        columns = [batch[key] for key in keys]
        if rest is not None:
            columns = [np.concatenate(pair) for pair in zip(rest, columns, strict=True)]
        last = int(np.searchsorted(columns[2], columns[2][-1]))
        rest = [column[last:].copy() for column in columns]  # the stream reuses its buffers
        if last:
            yield columns[0][:last], columns[1][:last].astype(np.int64), lengths(columns[2][:last])
    if rest is not None:
        yield rest[0], rest[1].astype(np.int64), lengths(rest[2])


def lengths(example: Int64[np.ndarray, " tokens"]) -> Int64[np.ndarray, " images"]:
    """The number of tokens of each image; those of an image stand together.

    >>> lengths(np.array([3, 3, 7]))
    array([2, 1])
    """
    return np.diff(np.append(np.flatnonzero(np.diff(example, prepend=-1)), len(example)))


def grids_of(
    selection: Selection, example: Int64[np.ndarray, " images"], tokens: Int64[np.ndarray, " images"]
) -> Int64[np.ndarray, "images 2"]:
    """Rows and columns of patches of each image; 0 where they are not recorded, or where not all patches are selected."""
    store: ActivationStore = selection.store
    if selection.tokens not in ("patches", "all") or not {"grid_h", "grid_w"} <= {*store.examples.columns}:
        return np.zeros((len(example), 2), np.int64)
    grids = store.examples.select("grid_h", "grid_w")[example.tolist()].fill_null(0).to_numpy().astype(np.int64)
    others = store.role_slice("patches")[0] - store.role_slice(selection.tokens)[0]
    grids[grids.prod(1) + others != tokens] = 0
    return grids


def encode_batch(name: str, dictionary: Dictionary, batch: Batch) -> tuple[Pooled, Float64[np.ndarray, "images _"]]:
    """The pooled codes of a batch; per image the mean reconstruction [d_model], and the sums of residuals and of their squares."""
    x, codes = batch.acts, sparse_or_dense(dictionary, batch.acts)
    if isinstance(codes, SparseCodes):
        takes_pairs = isinstance(dictionary, SparseAutoencoder)
        x_hat = dictionary.decode(codes) if takes_pairs else dictionary.decode(codes.dense(dictionary.n_latents))
        pooled = pool_pairs(codes, batch.n_tokens, batch.patch, batch.grids, dictionary.n_latents)
    else:
        x_hat = dictionary.decode(codes)
        pooled = pool_dense(codes, batch.n_tokens, batch.patch, batch.grids)
    residual = (x - x_hat).double()
    sums = sums_by_image(batch, x_hat.double(), residual.sum(1), residual.square().sum(1))
    if not (np.isfinite(sums).all() and np.isfinite(pooled.max).all()):
        raise ValueError(
            f"{name} has codes or reconstructions that are NaN or infinite: it has diverged; leave it out or train it again."
        )
    sums[:, :-2] /= batch.n_tokens[:, None]
    return pooled, sums


def sparse_or_dense(
    dictionary: Dictionary, acts: Float[Tensor, "tokens d_model"]
) -> SparseCodes | Float[Tensor, "tokens n_latents"]:
    """Codes as pairs where at most 10 % are not 0, else as a matrix."""
    if isinstance(dictionary, SparseAutoencoder) and dictionary.sparsifier.k_per_token is not None:
        return sparse_codes(dictionary, acts)
    codes = dictionary.encode(acts)
    return codes if codes.count_nonzero() > DENSE * codes.numel() else from_dense(codes)


def sums_by_image(batch: Batch, *columns: Float64[Tensor, "tokens *_"]) -> Float64[np.ndarray, "images _"]:
    """The sum over the tokens of each image of each column, side by side."""
    lengths = torch.from_numpy(batch.n_tokens).to(batch.acts.device)
    sums = [torch.segment_reduce(column, "sum", lengths=lengths) for column in columns]
    return torch.cat([s[:, None] if s.ndim == 1 else s for s in sums], dim=1).cpu().numpy()


def assembled(images: ImageActivations, n_latents: int, parts: list[tuple[Pooled, np.ndarray]]) -> ImageCodes:
    """One dictionary's codes from those of its batches."""
    counts, latents, largest, active, morans_i = (np.concatenate(x) for x in zip(*(p for p, _ in parts), strict=True))
    sums = np.concatenate([s for _, s in parts])
    return ImageCodes(
        images, n_latents, np.concatenate([[0], np.cumsum(counts)]), latents, largest, active, morans_i,
        sums[:, -2].copy(), sums[:, -1].copy(), sums[:, :-2].astype(np.float32),
    )  # fmt: skip
