"""Settings of `saev.bench`, with their defaults and bounds; conf/bench.yaml explains each. No torch here."""

import dataclasses

from saev.dictionary_bench.measures import MEASURES
from saev.settings import Examples, bounded, check, listed


@dataclasses.dataclass(frozen=True)
class BenchSettings:
    """What is measured, and on what.

    Args:
        tokens, examples: as of `EvaluateSettings`.
        labels: the class of each image: a column of examples.parquet, or a csv of image, class; None: no measure that needs classes.
        splice_images: of the images, drawn at random, whose reconstructions are put back into the backbone; None: all.
        ignore_labels: names or ids of patch labels that are no class, for probes, coalitions and pairs that are made.
        hierarchy: a csv of parent, child, where children are classes: groups for the absorption rate.
        embeddings: of the images by another model: a file (.npy, .npz, .safetensors, .parquet), or another recording of them.
        pairs: a csv of image_a, image_b, attribute; or painted_over or recoloured, pairs that are made from the images' masks.
        pairs_per_class: of pairs that are made, at most so many of each class.
        without: measures that are left out, by name.
        against: a dictionary of the table, or a kind of baseline: differences from it.
        n_coalition: latents of a coalition, at most. threshold: a latent fires on an image above this fraction of its largest code.
        permutations: for the nulls of coalitions, pairs, k-sparse probes and (at most 5) absorption. min_images: with a valid map, for a
            latent's Moran's I.
        bootstrap: resamples of the images, for 95 % intervals; 0: none. seed: of resamples, halves and permutations.
    """

    tokens: str | None = None
    examples: Examples = "held_out"
    labels: str | None = None
    ignore_labels: tuple[int | str, ...] = ()
    hierarchy: str | None = None
    embeddings: str | None = None
    pairs: str | None = None
    pairs_per_class: int = bounded(40, at_least=10)
    splice_images: int | None = bounded(200, at_least=1)
    without: tuple[str, ...] = ()
    against: str | None = None
    n_coalition: int = bounded(4, at_least=1)
    threshold: float = bounded(0.0, at_least=0, below=1)
    permutations: int = bounded(20, at_least=0)
    min_images: int = bounded(50, at_least=1)
    bootstrap: int = bounded(1000, at_least=0)
    seed: int = bounded(0, at_least=0)
    batch_size: int = bounded(4096, at_least=1)
    device: str = "auto"

    def __post_init__(self):
        check(self)
        if unknown := sorted({*self.without} - {*MEASURES}):
            raise ValueError(f"without={unknown[0]} is no measure: choose among {listed(tuple(MEASURES))}.")
        if self.hierarchy and not self.labels:
            raise ValueError(
                f"hierarchy={self.hierarchy} needs the classes of the images: give labels=COLUMN or a csv."
            )
