"""All measures of one dictionary that are computed from its codes by image."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import polars as pl

from saev.dictionary_bench.absorption import JudgedOn, absorption
from saev.dictionary_bench.activity import activity
from saev.dictionary_bench.coalitions import coalition_matching
from saev.dictionary_bench.image_codes import ImageActivations, ImageCodes
from saev.dictionary_bench.inputs import Inputs
from saev.dictionary_bench.localisation import localisation
from saev.dictionary_bench.measured import Measured, absent
from saev.dictionary_bench.monosemanticity import TOP_IMAGES, monosemanticity
from saev.dictionary_bench.paired_images import paired_images
from saev.dictionary_bench.preservation import Classifier, classifier, preservation
from saev.dictionary_bench.reconstruction import fvu, nmse
from saev.dictionary_bench.settings import BenchSettings
from saev.dictionary_bench.sparse_probe import K, RankedOn, sparse_probe
from saev.dictionary_bench.transfer import Other, transfer
from saev.saved import SavedDictionary

ABSORPTION_PERMUTATIONS = 5  # at most: each fits two regressions for each class
Computed = tuple[str, Callable[[], Measured]]


@dataclasses.dataclass(frozen=True)
class DictionaryResult:
    """The measures of a dictionary by name, and tables with a row per thing that a measure is the mean of."""

    measures: dict[str, Measured]
    tables: dict[str, pl.DataFrame]


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
        return DictionaryResult(measures, tables)

    def functions(
        self, codes: ImageCodes, paired: ImageCodes, elsewhere: Mapping[str, Other], tables: dict[str, pl.DataFrame]
    ) -> Iterator[Computed]:
        """Each measure that can be computed, and how; coalitions and pairs also give a table."""
        given, s = self.inputs, self.settings
        drawn, chance = given.drawn, {"permutations": s.permutations, "seed": s.seed}
        fires = functools.cache(lambda: activity(codes, drawn))
        for name in ("l0", "dead", "dense_above_0.1"):
            yield name, lambda name=name: fires()[name]
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
            ranked: tuple[tuple[str, RankedOn], ...] = (("image_probes", "train"), ("image_probes_leaking", "all"))
            for name, on in ranked:
                probes = functools.partial(
                    sparse_probe,
                    codes,
                    classes.number,
                    drawn,
                    ranked_on=on,
                    permutations=s.permutations,
                    null_seed=s.seed,
                )
                yield name, probes if enough else lambda: few
            if (groups := given.groups) is not None:
                judged: tuple[tuple[str, JudgedOn], ...] = (("absorption", "test"), ("absorption_in_sample", "train"))
                several = min(s.permutations, ABSORPTION_PERMUTATIONS)
                for name, side in judged:
                    yield (
                        name,
                        functools.partial(
                            absorption,
                            codes,
                            classes.number,
                            groups,
                            drawn,
                            side,
                            permutations=several,
                            null_seed=s.seed,
                        ),
                    )
        if elsewhere:
            yield (
                "transfer",
                lambda: transfer(codes, elsewhere, s.bootstrap, draw_seed=s.seed, permutations=s.permutations),
            )

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
    if stability is None:
        return table
    of_one = stability.filter(member=one.name).drop("member")
    return table.join(of_one, "latent", how="left", maintain_order="left")
