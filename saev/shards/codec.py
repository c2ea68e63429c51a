"""How a token's row is stored: unchanged, or as 8 bits per channel and a scale per token.

int8:  z = (x - mean) / std    per channel, mean and std from a calibration, one pair a layer
       scale = max |z| / 127   per token
       row = round(z / scale) as int8 [d_model], then scale as little-endian float32 in four more bytes
"""

import abc
import os
import secrets
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from saev.files import write_atomically
from saev.shards.manifest import Manifest, layer_dir

FILE = "codec.safetensors"
SCALE_BYTES = 4
MIN_STD = 1e-3  # of the rms over channels: a channel nearly constant in the calibration would dominate every scale


def stored_row(d_model: int, dtype: str) -> tuple[int, np.dtype]:
    """Width and dtype of the array that holds activations of `dtype`.

    >>> stored_row(384, "float16"), stored_row(384, "int8")
    ((384, dtype('float16')), (388, dtype('int8')))
    """
    return d_model + (SCALE_BYTES if dtype == "int8" else 0), np.dtype(dtype)


class Codec(abc.ABC):
    """Converts activations [n, d_model] to stored rows [n, width] and back; create one by `plain`, `int8`, `calibrated` or `load`."""

    decoded_dtype: np.dtype

    def __init__(self, d_model: int, dtype: str):
        self.d_model, self.dtype = d_model, dtype

    @property
    def stored_shape_dtype(self) -> tuple[int, np.dtype]:
        """Width and dtype of the stored array."""
        return stored_row(self.d_model, self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row."""
        width, dtype = self.stored_shape_dtype
        return width * dtype.itemsize

    @abc.abstractmethod
    def encode(self, acts: Float[np.ndarray, "n d_model"]) -> Shaped[np.ndarray, "n width"]:
        """Stored rows of finite activations; a value beyond the range of the stored dtype becomes infinite."""

    @abc.abstractmethod
    def decode(
        self, rows: Shaped[np.ndarray, "n width"], out: Float[np.ndarray, "n d_model"] | None = None
    ) -> Float[np.ndarray, "n d_model"]:
        """The activations of stored rows, written to `out` if given; `rows` itself where they are stored unchanged."""

    @staticmethod
    def plain(dtype: str, d_model: int) -> "Codec":
        """Values stored unchanged, in `dtype`."""
        return _Plain(d_model, dtype)

    @staticmethod
    def int8(mean: Float[np.ndarray, " d_model"], std: Float[np.ndarray, " d_model"]) -> "Codec":
        """8 bits per channel about `mean` in units of `std`; ValueError where std is not positive and finite."""
        return _Int8(mean, std)

    @staticmethod
    def calibrated(acts: Float[np.ndarray, "n d_model"]) -> "Codec":
        """The int8 codec with the mean and standard deviation of these activations."""
        x = acts.astype(np.float64)
        std = x.std(0)
        return _Int8(x.mean(0), np.maximum(std, MIN_STD * np.sqrt(np.mean(std**2)) or 1.0))

    @staticmethod
    def load(root: Path, layer: int, manifest: Manifest) -> "Codec":
        """The codec of a recorded layer; ValueError where its file is missing or damaged."""
        if manifest.dtype != "int8":
            return _Plain(manifest.d_model, manifest.dtype)
        path = codec_path(root, layer)
        if not path.is_file():
            raise ValueError(
                f"{path} is missing, int8 activations cannot be decoded without it: restore it or record again."
            )
        try:
            statistics = load_file(path)
            codec = _Int8(statistics["mean"], statistics["std"])
            if codec.d_model != manifest.d_model:
                raise ValueError(f"{codec.d_model} channels instead of {manifest.d_model}")
        except (SafetensorError, KeyError, ValueError) as err:
            raise ValueError(f"{path} is damaged ({err}): restore it or record again.") from err
        return codec


class _Plain(Codec):
    """Stores the activations unchanged."""

    def __init__(self, d_model: int, dtype: str):
        super().__init__(d_model, dtype)
        self.decoded_dtype = np.dtype(dtype)

    def encode(self, acts: Float[np.ndarray, "n d_model"]) -> Shaped[np.ndarray, "n width"]:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(acts, self.dtype)

    def decode(
        self, rows: Shaped[np.ndarray, "n width"], out: Float[np.ndarray, "n d_model"] | None = None
    ) -> Float[np.ndarray, "n d_model"]:
        if out is None:
            return rows
        np.copyto(out, rows)
        return out


class _Int8(Codec):
    """8 bits per channel, standardised, with a scale per token."""

    def __init__(self, mean: Float[np.ndarray, " d_model"], std: Float[np.ndarray, " d_model"]):
        super().__init__(len(mean), "int8")
        self.decoded_dtype = np.dtype(np.float32)
        self.mean, self.std = mean.astype(np.float32), std.astype(np.float32)
        if self.mean.shape != self.std.shape or not (np.isfinite(self.mean).all() and np.isfinite(self.std).all()):
            raise ValueError("mean and std are not finite vectors of one length")
        if not (self.std > 0).all():
            raise ValueError("std is not positive in every channel")

    def encode(self, acts: Float[np.ndarray, "n d_model"]) -> Shaped[np.ndarray, "n width"]:
        z = (acts.astype(np.float32) - self.mean) / self.std
        scale = np.abs(z).max(1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1  # a token at the mean: all its values are 0
        z /= scale
        rows = np.empty((len(z), self.d_model + SCALE_BYTES), np.int8)
        with np.errstate(invalid="ignore"):  # the caller checks for NaN
            rows[:, : self.d_model] = np.rint(z, out=z)
        rows[:, self.d_model :] = scale.astype("<f4").view(np.int8)
        return rows

    def decode(
        self, rows: Shaped[np.ndarray, "n width"], out: Float[np.ndarray, "n d_model"] | None = None
    ) -> Float[np.ndarray, "n d_model"]:
        scale = np.ascontiguousarray(rows[:, self.d_model :]).view("<f4")
        x = np.empty((len(rows), self.d_model), np.float32) if out is None else out
        np.multiply(rows[:, : self.d_model], scale, out=x, casting="same_kind")
        x *= self.std
        x += self.mean
        return x


def codec_path(root: Path, layer: int) -> Path:
    """The file with a layer's mean and std."""
    return Path(root) / layer_dir(layer) / FILE


def keep_codec(root: Path, layer: int, codec: Codec) -> None:
    """Write an int8 codec for a layer that has none; of several processes the first one's codec is kept."""
    assert isinstance(codec, _Int8)
    path = codec_path(root, layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    write_atomically(temporary, save({"mean": codec.mean, "std": codec.std}))
    try:
        os.link(temporary, path)
    except OSError:  # the codec exists, or the file system has no links
        if not path.is_file():
            temporary.replace(path)
    temporary.unlink(missing_ok=True)
