"""Mean, variance and mean norm of activations as one additive statistic (float64, centred)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from safetensors.numpy import load_file, save

from saev.files import write_atomically


@dataclasses.dataclass
class Moments:
    """Count, mean and second central moment of vectors, and the sum of their norms.

    Sums of squares are about the running mean (Chan, Golub, LeVeque 1983), so nothing cancels when the mean is large
    against the spread, as in the massive dimensions of vision transformers.
    """

    mean: Float[np.ndarray, " d_model"]
    m2: Float[np.ndarray, " d_model"]  # sum over vectors of (x - mean)^2
    count: int = 0
    norm_sum: float = 0.0

    @classmethod
    def zeros(cls, d_model: int) -> "Moments":
        """The neutral element of `merge`."""
        return cls(np.zeros(d_model), np.zeros(d_model))

    @classmethod
    def of(cls, rows: Shaped[np.ndarray, "n d_model"]) -> "Moments":
        """The moments of the given vectors."""
        return _of_pieces([rows], rows.shape[1])

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of vectors together; associative up to float64 rounding."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta**2 * (self.count * other.count / count)
        return Moments(mean, m2, count, self.norm_sum + other.norm_sum)

    @property
    def variance(self) -> Float[np.ndarray, " d_model"]:
        """Population variance of each dimension."""
        return self.m2 / max(self.count, 1)

    @property
    def scale(self) -> float:
        """c with E||(x - mean)/c||^2 = d_model: the root of the variance averaged over dimensions."""
        return float(np.sqrt(self.variance.mean()))


ByRole = dict[str, Moments]  # cls tokens and patches differ too much to share a mean


CHUNK_BYTES = 1 << 19  # of values that are summed together: they fit the cache
CHUNK_ROWS = 128  # at most: a float32 sum of so many keeps six digits
TORCH_GRAIN = 32767  # elements; for more, torch uses its thread pool, which the backbone needs


def by_role(images: Sequence[Shaped[np.ndarray, "_ d_model"]], roles: Mapping[str, int], d_model: int) -> ByRole:
    """The moments of the images' tokens by role, roles in stored order (-1: all remaining tokens)."""
    moments, start = {}, 0
    for role, count in roles.items():
        pieces = [image[start : len(image) if count < 0 else start + count] for image in images]
        moments[role] = _of_pieces(pieces, d_model)
        start += max(count, 0)
    return moments


def _of_pieces(pieces: Sequence[Shaped[np.ndarray, "_ d_model"]], d_model: int) -> Moments:
    """The moments of all pieces' rows.

    Up to 128 rows at a time are summed in twice the precision of the data (float32 for float16, which halves the time;
    float64 else), about the mean of the preceding rows; all further sums are in float64.
    """
    double = np.float32 if all(piece.dtype == np.float16 for piece in pieces) else np.float64
    n_rows = min(CHUNK_ROWS, max(1, CHUNK_BYTES // (np.dtype(double).itemsize * d_model)))
    chunk = np.empty((n_rows, d_model), double)
    total, filled = Moments.zeros(d_model), 0
    for piece in pieces:
        while len(piece):
            n = min(len(piece), len(chunk) - filled)
            _widen(piece[:n], chunk[filled : filled + n])
            piece, filled = piece[n:], filled + n
            if filled == len(chunk):
                total, filled = total.merge(_consume(chunk, total)), 0
    return total.merge(_consume(chunk[:filled], total))


def _consume(x: Float[np.ndarray, "n d_model"], before: Moments) -> Moments:
    """The moments of x; overwrites x."""
    if len(x) == 0:
        return Moments.zeros(x.shape[1])
    with np.errstate(invalid="ignore"):  # the caller checks norm_sum for NaN and infinity
        norms = np.sqrt(np.einsum("ij,ij->i", x, x))  # einsum: a tenth of the time of x**2 and sum
        centre = (before.mean if before.count else x.mean(0)).astype(x.dtype)
        x -= centre
        shift = x.sum(0).astype(np.float64) / len(x)
        m2 = np.einsum("ij,ij->j", x, x).astype(np.float64) - len(x) * shift**2
    return Moments(centre + shift, np.maximum(m2, 0), len(x), float(norms.sum(dtype=np.float64)))


def _widen(rows: Shaped[np.ndarray, "n d_model"], out: Float[np.ndarray, "n d_model"]) -> None:
    """Copy to a wider dtype by torch, which converts float16 four times as fast as NumPy."""
    import torch  # slow to import, and not needed for reading

    step = max(1, TORCH_GRAIN // out.shape[1])
    for i in range(0, len(rows), step):
        torch.from_numpy(out[i : i + step]).copy_(torch.from_numpy(rows[i : i + step]))


def merge_roles(one: ByRole, other: ByRole) -> ByRole:
    """The moments of both sets of images together, by role."""
    return {role: one[role].merge(other[role]) for role in one}


def fields_of(moments: ByRole, prefix: str = "") -> dict[str, np.ndarray]:
    """The moments as arrays: <role>.count, <role>.mean, <role>.m2, <role>.norm_sum."""
    fields = {}
    for role, m in moments.items():
        fields |= {f"{prefix}{role}.mean": m.mean, f"{prefix}{role}.m2": m.m2}
        fields |= {f"{prefix}{role}.count": np.array([m.count]), f"{prefix}{role}.norm_sum": np.array([m.norm_sum])}
    return fields


def moments_in(fields: Mapping[str, np.ndarray], prefix: str = "") -> ByRole:
    """The moments that `fields_of` gave as arrays."""
    roles = [
        name[len(prefix) : -len(".count")] for name in fields if name.startswith(prefix) and name.endswith(".count")
    ]

    def of(role: str) -> Moments:
        mean, m2, count, norm_sum = (fields[f"{prefix}{role}.{name}"] for name in ("mean", "m2", "count", "norm_sum"))
        return Moments(mean, m2, int(count[0]), float(norm_sum[0]))

    return {role: of(role) for role in roles}


def save_moments(path: Path, moments: ByRole) -> None:
    """Write the arrays of `fields_of` atomically as safetensors."""
    write_atomically(path, save(fields_of(moments)))


def load_moments(path: Path) -> ByRole:
    """The moments in a file of `save_moments`."""
    return moments_in(load_file(path))
