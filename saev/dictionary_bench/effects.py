"""Options of a bench that have no effect on what is measured."""

import dataclasses
from collections.abc import Collection, Mapping

from saev.dictionary_bench.measures import MEASURES
from saev.dictionary_bench.settings import BenchSettings

PROBED = ("probe_map", "probe_r", "probe_coverage")
SPLICED = "splice_recovered_patches"
OF_CLASSES = ("preservation", "image_probes", "image_probes_leaking")
OF_PROBES = OF_CLASSES[1:]
OF_GROUPS = ("absorption", "absorption_in_sample")
OF_EMBEDDINGS = ("monosemanticity", "monosemanticity_top")


@dataclasses.dataclass(frozen=True)
class Given:
    """What a command and its recording give beside codes.

    Args:
        masks: the recording has labels of patches. made: pairs of images are made from masks, and not read from a file.
        others: other dictionaries than those of `against`.
    """

    labels: bool = False
    hierarchy: bool = False
    embeddings: bool = False
    transfer: bool = False
    traits: bool = False
    masks: bool = False
    pairs: bool = False
    made: bool = False
    splice: bool = False
    others: bool = True

    def measured(self, without: Collection[str]) -> set[str]:
        """The measures whose inputs are given and that are not left out."""
        needs: Mapping[str, bool] = {
            **dict.fromkeys(OF_CLASSES, self.labels),
            **dict.fromkeys(OF_GROUPS, self.labels and self.hierarchy),
            **dict.fromkeys(OF_EMBEDDINGS, self.embeddings),
            **dict.fromkeys(PROBED, self.masks),
            "coalitions": self.traits or self.masks or self.labels,
            "paired_images": self.pairs,
            "transfer": self.labels and self.transfer,
            SPLICED: self.splice,
        }
        return {name for name in MEASURES if needs.get(name, True)} - {*without}


def without_effect(settings: BenchSettings, given: Given) -> list[str]:
    """The options that are given, or differ from their default, and that no measure of this bench reads."""
    measured = given.measured(settings.without)

    def read_by(*names: str) -> bool:
        return bool(measured & {*names})

    concepts = "traits" if given.traits else "masks" if given.masks else "labels"
    of_masks = (*PROBED, *(("coalitions",) if concepts == "masks" else ()), *(("paired_images",) if given.made else ()))
    of_labels = (*OF_CLASSES, *OF_GROUPS, "transfer", *(("coalitions",) if concepts == "labels" else ()))
    drawn = ("coalitions", "paired_images", *PROBED)
    effects = {
        "labels": read_by(*of_labels),
        "hierarchy": read_by(*OF_GROUPS),
        "embeddings": read_by(*OF_EMBEDDINGS),
        "transfer": read_by("transfer"),
        "traits": read_by("coalitions"),
        "pairs": read_by("paired_images"),
        "pairs_per_class": given.made and read_by("paired_images"),
        "ignore_labels": read_by(*of_masks),
        "splice": read_by(SPLICED),
        "splice_images": read_by(SPLICED),
        "n_coalition": read_by("coalitions"),
        "threshold": read_by("coalitions"),
        "permutations": read_by("coalitions", "paired_images", *OF_PROBES, *OF_GROUPS),
        "min_images": read_by("morans_i"),
        "seed": settings.bootstrap > 0 or read_by(*drawn),
        "against": given.others,
    }
    fields = {field.name: (field.default, getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    asked = {
        name: f"{name}={list(value) if isinstance(value, tuple) else value}"
        for name, (default, value) in fields.items()
        if value != default
    }
    others = {"embeddings": "vit@embedder=", "transfer": "transfer=", "traits": "traits=", "splice": "splice=true"}
    asked = {name: text for name, text in others.items() if getattr(given, name)} | asked
    return [asked[name] for name, effect in effects.items() if name in asked and not effect]
