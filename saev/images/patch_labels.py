"""A class id per patch from a mask with a class id per pixel.

mask [h*p, w*p] -> patches [h*w, p*p] -> sorted -> runs of equal ids -> the run with the best score labels the patch
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float16, Integer, UInt16

from saev.shards.manifest import VOID

METHODS = ("majority", "prefer-foreground")


@dataclass(frozen=True)
class Labelling:
    """How a set's masks become patch labels, and the names of the ids."""

    method: str = "majority"
    void: tuple[int, ...] = ()
    """Pixel ids that mean "not annotated"."""
    background: tuple[int, ...] = ()
    """Ids that prefer-foreground avoids if the patch contains another id."""
    classes: Mapping[int, str] = field(default_factory=dict)
    """Names by id; {} if unknown."""

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"images.method={self.method}: choose {' or '.join(METHODS)}.")

    def info(self) -> dict[str, Any]:
        """The fields as JSON-able values, for a manifest."""
        classes = {str(id): name for id, name in sorted(self.classes.items())}
        return {
            "method": self.method,
            "void": list(self.void),
            "background": list(self.background),
            "classes": classes,
        }


def as_ids(key: str, value: Any) -> tuple[int, ...]:
    """Class ids, given as 255, [0, 255] or None, as a sorted tuple.

    >>> as_ids("void", 255), as_ids("void", [255, 0]), as_ids("void", None)
    ((255,), (0, 255), ())
    """
    ids = [value] if isinstance(value, int) else list(value or ())
    if not all(isinstance(id, int) and not isinstance(id, bool) for id in ids):
        raise ValueError(f"images.{key}={value}: must be a list of class ids, e.g. images.{key}=[255].")
    return tuple(sorted(set(ids)))


def patch_labels(
    mask: Integer[np.ndarray, "height width"], grid: tuple[int, int], labelling: Labelling
) -> tuple[UInt16[np.ndarray, " patches"], Float16[np.ndarray, " patches"]]:
    """Class id of each patch (row by row; VOID = 65535) and the fraction of the patch's pixels that have it.

    The mask consists of grid[0] x grid[1] patches of equal size. majority: the most frequent id among all pixels, void
    pixels counting as VOID; ties prefer non-void, then the lower id. prefer-foreground: the most frequent id that is
    neither void nor background if there is one, else majority. Ids are not renumbered; 0 is an id like others.
    """
    (height, width), (h, w) = mask.shape, grid
    if height % h or width % w:
        raise ValueError(f"a mask of {height} x {width} pixels (height x width) does not divide into {h} x {w} patches")
    ids = void_to_65535(mask, labelling.void)
    n, size = h * w, (height // h) * (width // w)
    pixels = np.sort(ids.reshape(h, height // h, w, width // w).swapaxes(1, 2).reshape(n, size), axis=1)

    starts_run = np.ones((n, size), bool)  # each patch begins a new run
    np.not_equal(pixels[:, 1:], pixels[:, :-1], out=starts_run[:, 1:])
    starts = np.flatnonzero(starts_run)
    ids, counts = pixels.ravel()[starts].astype(np.int64), np.diff(starts, append=n * size)

    # one number ranks the runs: foreground (if preferred), then the count, then non-void, then the lower id
    score = (counts << 17) | ((ids != VOID) << np.int64(16)) | (VOID - ids)
    if labelling.method == "prefer-foreground":
        score |= (~np.isin(ids, (*labelling.background, VOID))).astype(np.int64) << 50
    best = np.maximum.reduceat(score, np.searchsorted(starts, np.arange(n) * size))
    labels = VOID - (best & 0xFFFF)
    fractions = ((best >> 17) & ((1 << 33) - 1)) / size
    return labels.astype(np.uint16), fractions.astype(np.float16)


def void_to_65535(
    mask: Integer[np.ndarray, "height width"], void: Sequence[int] = (), name: str = "a mask"
) -> UInt16[np.ndarray, "height width"]:
    """The mask in 16 bits, void ids as 65535; ValueError naming the mask for a non-void id that does not fit."""
    is_void = np.isin(mask, void) if void else np.zeros((), bool)
    if mask.dtype.itemsize > 1:  # uint8 always fits
        bad = mask[~is_void & ((mask < 0) | (mask > VOID))] if is_void.ndim else mask[(mask < 0) | (mask > VOID)]
        if bad.size:
            raise ValueError(
                f"{name} has the id {bad[0]}: ids must be 0 to 65534; renumber it, or if it means 'not annotated' add it to "
                f"images.void=[{bad[0]}]."
            )
    return np.where(is_void, np.uint16(VOID), mask.astype(np.uint16))
