"""All measures of one dictionary that are computed from its codes by image."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import polars as pl

from saev.dictionary_bench.absorption import absorption
from saev.dictionary_bench.coalitions import coalition_matching
from saev.dictionary_bench.image_codes import ImageActivations, ImageCodes
from saev.dictionary_bench.inputs import Inputs
from saev.dictionary_bench.localisation import localisation
from saev.dictionary_bench.measured import Measured
from saev.dictionary_bench.monosemanticity import TOP_IMAGES, monosemanticity
from saev.dictionary_bench.paired_images import paired_images
from saev.dictionary_bench.preservation import Classifier, classifier, preservation
from saev.dictionary_bench.reconstruction import fvu, nmse
from saev.dictionary_bench.settings import BenchSettings
from saev.dictionary_bench.sparse_probe import K, sparse_probe
from saev.dictionary_bench.transfer import Other, transfer
from saev.saved import SavedDictionary

# Measures, and what they need that a recording or a command may not give.
NEEDS = {
    **dict.fromkeys(("preservation", "image_probes", "image_probes_leaking"), "labels="),
    **dict.fromkeys(("absorption", "absorption_in_sample"), "labels= and hierarchy="),
    **dict.fromkeys(("monosemanticity", "monosemanticity_top"), "embeddings= or vit@embedder="),
    "coalitions": "traits=, labels= or masks",
    "paired_images": "pairs=",
    "transfer": "labels= and transfer=",
}
Computed = tuple[str, Callable[[], Measured]]


@dataclasses.dataclass(frozen=True)
class DictionaryResult:
    """The measures of a dictionary by name, and tables with a row per thing that a measure is the mean of."""

    measures: dict[str, Measured]
    tables: dict[str, pl.DataFrame]


def absent(reason: str) -> Measured:
    """The result of a measure that was left out."""
    return Measured(float("nan"), details={"reason": reason})


def renamed(measured: Measured, name: str) -> Measured:
    """The same with its only column of latents called `name`."""
    (values,) = measured.latents.values()
    return dataclasses.replace(measured, latents={name: values})


class Measuring:
    """The measures of dictionaries on the same images; what is the same for all of them is computed once."""

    def __init__(self, images: ImageActivations, inputs: Inputs, settings: BenchSettings):
        self.inputs, self.settings = inputs, settings
        self.classifier: Classifier | None = None
        if inputs.classes is not None and "preservation" not in settings.without:
            self.classifier = classifier(images, inputs.classes.number)

    def __call__(self, codes: ImageCodes, paired: ImageCodes, elsewhere: Mapping[str, Other]) -> DictionaryResult:
        """All measures but those that the settings leave out.

        paired: the codes of the images of `inputs.pairs`, which may be others than those that are measured; elsewhere: the codes on
        other recordings.
        """
        measures, tables = {}, {}
        for name, function in self.functions(codes, paired, elsewhere, tables):
            if name not in self.settings.without:
                measures[name] = function()
        for name, what in NEEDS.items():
            if name not in self.settings.without:
                measures.setdefault(name, absent(f"needs {what}"))
        return DictionaryResult(measures, tables)

    def functions(
        self, codes: ImageCodes, paired: ImageCodes, elsewhere: Mapping[str, Other], tables: dict[str, pl.DataFrame]
    ) -> Iterator[Computed]:
        """Each measure that can be computed, and how; coalitions and pairs also give a table."""
        given, s = self.inputs, self.settings
        drawn, chance = given.drawn, {"permutations": s.permutations, "seed": s.seed}
        yield "nmse", lambda: nmse(codes, drawn)
        yield "fvu", lambda: fvu(codes, drawn)
        yield "morans_i", lambda: localisation(codes, drawn, s.min_images)
        if (embeddings := given.embeddings) is not None:
            yield "monosemanticity", lambda: monosemanticity(codes, embeddings, drawn)
            yield (
                "monosemanticity_top",
                lambda: renamed(monosemanticity(codes, embeddings, drawn, TOP_IMAGES), "monosemanticity_top"),
            )
        if (classes := given.classes) is not None:
            if (fitted := self.classifier) is not None:
                yield "preservation", lambda: preservation(codes, fitted, drawn)
            few = absent(f"has fewer than {K[-1]} latents, so that its area is of another range")
            enough = codes.n_latents >= K[-1]
            yield "image_probes", lambda: sparse_probe(codes, classes.number, drawn) if enough else few
            yield (
                "image_probes_leaking",
                lambda: sparse_probe(codes, classes.number, drawn, ranked_on="all") if enough else few,
            )
            if (groups := given.groups) is not None:
                yield "absorption", lambda: absorption(codes, classes.number, groups, drawn)
                yield "absorption_in_sample", lambda: absorption(codes, classes.number, groups, drawn, "train")
        if elsewhere:
            yield "transfer", lambda: transfer(codes, elsewhere, s.bootstrap, draw_seed=s.seed)

        def with_table(name: str, result: tuple[Measured, pl.DataFrame]) -> Measured:
            tables[name] = result[1]
            return result[0]

        if (concepts := given.concepts) is not None:
            yield (
                "coalitions",
                lambda: with_table(
                    "concepts", coalition_matching(codes, concepts, drawn, s.n_coalition, s.threshold, **chance)
                ),
            )
        if (pairs := given.pairs) is not None:
            yield (
                "paired_images",
                lambda: with_table("attributes", paired_images(paired.pooled, pairs, s.bootstrap, **chance)),
            )


def latent_rows(one: SavedDictionary, measures: Mapping[str, Measured], stability: pl.DataFrame | None) -> pl.DataFrame:
    """A row per latent of a dictionary: the columns of its measures and of its stability, null where a latent has no number."""
    columns = {name: np.asarray(values) for m in measures.values() for name, values in m.latents.items()}
    table = pl.DataFrame({"latent": np.arange(int(one.config["n_latents"])), **columns})
    table = table.select(pl.lit(one.name).alias("member"), pl.all()).with_columns(pl.selectors.float().fill_nan(None))
    return (
        table
        if stability is None
        else table.join(stability.drop("member"), "latent", how="left", maintain_order="left")
    )
