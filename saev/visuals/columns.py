"""The columns by which dictionaries are compared: label, format and meaning, for the terminal's tables and for the page's."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A number of a result row: its key, heading, format and meaning."""

    key: str
    label: str
    write: Callable[[float], str]
    meaning: str

    def text(self, row: Mapping[str, Any]) -> str:
        """The row's number as text; a dash where it is missing or not finite."""
        if not finite(row, self.key):
            return MISSING
        target = f" ({row['l0_target']:g})" if self.key == "l0" and missed_target(row) else ""
        return self.write(row[self.key]) + target


def digits(value: float, n: int = 3) -> str:
    """A number with `n` significant digits and without an exponent, whole from 10^n on.

    >>> digits(0.35612), digits(15.98), digits(12345.6), digits(0)
    ('0.356', '16.0', '12,346', '0')
    """
    if value == 0:
        return "0"
    after = n - 1 - math.floor(math.log10(abs(value)))
    value = round(value, after) if after > 0 else value
    after = n - 1 - math.floor(math.log10(abs(value))) if value else 0  # 9.996 has become 10.0
    return f"{value:,.{max(after, 0)}f}"


def thousands(value: float) -> str:
    """1500000 -> 1.5M, 2000 -> 2k, 0.05 -> 0.05."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}" if value >= 1e-4 else digits(value, 1)


def percent(fraction: float) -> str:
    """A fraction in percent, one decimal; what would round to 0.0 is shown as `<0.1`.

    >>> percent(0.1234), percent(0.0), percent(1e-5)
    ('12.3', '0', '<0.1')
    """
    if fraction == 0:
        return "0"
    return "<0.1" if 0 < fraction < 0.0005 else f"{100 * fraction:.1f}"


whole, three = "{:,.0f}".format, "{:.3f}".format  # counts; numbers between -1 and 1

COLUMNS = (  # of a run's results
    Column("nmse", "NMSE", digits, "reconstruction error on held-out tokens: squared error over the squared distance from their mean. "
           "0 is perfect, 1 is no better than always answering the mean."),
    Column("l0", "L0", digits, "active latents per held-out token, on average (in brackets: a target missed by more than 10 %)."),
    Column("dead", "dead (%)", percent, "latents that fire on none of the held-out tokens."),
    Column("dense_above_0.1", "dense (%)", percent, "latents that fire on over a tenth of held-out tokens: too common to mean one thing."),
    Column("coherence", "coherence", three, "largest |cosine| between two atoms of the dictionary: 1 means that an atom occurs twice."),
    Column("probe_r", "R", three, "probes in training, judged on other images: 1 - cross-entropy of the best latent of each class / "
           "that of its prevalence, summed over classes."),
    Column("probe_map", "mAP", three, "probes in training, judged on other images: mean over classes of the best latent's "
           "average precision."),
)  # fmt: skip
EVALUATION = (  # of `saev evaluate`
    Column("nmse", "NMSE", digits, "squared error over the squared distance from the mean of the same tokens"),
    Column("l0", "L0", digits, "active latents per token (in brackets: a target missed by more than 10 %)"),
    Column(
        "nmse_at_l0", "at L0", digits, "NMSE at L0 = at_l0, between dictionaries equal but for k, sparsity or l0_target"
    ),
    Column("gap", "gap", three, "NMSE minus that on as many training images"),
    Column("dead", "dead (%)", percent, "latents that fire on none of these tokens"),
    Column("dense_above_0.1", "dense (%)", percent, "latents that fire on more than a tenth of them"),
    Column("coherence", "coherence", three, "largest |cosine| of two atoms"),
    Column("correlation", "|corr|", three, "mean |correlation| of two latents' codes"),
    Column("splice_recovered_cls", "cls", digits, "final cls token: 1 - error / error under mean ablation"),
    Column("splice_recovered_patches", "patch", digits, "the same for the final patches"),
    Column("splice_agreement", "class (%)", percent, "images whose class, as the head predicts it, does not change"),
)
STABILITY = (  # of `saev evaluate stability=true`
    Column(
        "stability_cosine",
        "cosine (%)",
        percent,
        "mean over latents of the others that have an atom with a cosine of 0.7",
    ),
    Column("tokens_cosine", "tokens", percent, "the same of two random draws of tokens, as many as latents"),
    Column("stability_start", "start", percent, "the same of the atoms at the start of training"),
    Column(
        "stability_correlation",
        "correlation",
        percent,
        "of the others that have a latent with a correlation of 0.5 over images",
    ),
    Column("tokens_correlation", "tokens", percent, "the same of two random draws of tokens"),
    Column(
        "stability_jaccard",
        "Jaccard",
        percent,
        "of the others that have a latent with a Jaccard of 0.5 of the 20 top images",
    ),
    Column("tokens_jaccard", "tokens", percent, "the same of two random draws of tokens"),
)
PROBE = (  # of `saev probe`
    Column("r", "R", three, "1 - cross-entropy of the best latents / that of the prevalence, summed over classes"),
    Column("map", "mAP", three, "mean over classes of the best latent's average precision; 95 % interval over images"),
    Column("map_permuted", "permuted", three, "the same with the labels of images permuted: the chance level"),
    Column("f1", "F1", three, "at the threshold that is best in training"),
    Column("precision16", "P@16", three, "of the 16 tokens with the largest codes, those of the class"),
    Column("coverage_0.3", "covered (%)", percent, "classes with an average precision of at least 0.3"),
)
IMAGES = (  # of probes on the codes of whole images
    Column("map", "mAP", three, "mean over classes of the average precision of images; 95 % interval over images"),
    Column("map_permuted", "permuted", three, "the same with the labels of images permuted: the chance level"),
    Column(
        "accuracy",
        "accuracy",
        three,
        "images with the most likely class right (of several classes an image: pairs of them)",
    ),
)
CLASSES = (  # of the classes of `saev probe`
    Column("latent", "latent", whole, "the latent that best predicts the class in training"),
    Column("ap", "AP", three, "average precision on validation tokens; 95 % interval over images"),
    Column("n_images_val", "images", whole, "validation images with the class"),
    Column("prevalence", "tokens (%)", percent, "validation tokens that are of the class"),
)


def finite(row: Mapping[str, Any], key: str) -> bool:
    """Whether the row has a finite number in this column."""
    return row.get(key) is not None and math.isfinite(row[key])


def failed(row: Mapping[str, Any]) -> bool:
    """Whether this SAE diverged and was stopped."""
    return bool(row.get("failed"))


def missed_target(row: Mapping[str, Any]) -> bool:
    """Whether L0 differs from its target by more than 10 %."""
    return finite(row, "l0_target") and finite(row, "l0") and abs(row["l0"] / row["l0_target"] - 1) > 0.1


def mark(row: Mapping[str, Any]) -> str:
    """The mark beside a dictionary's name: it diverged, or is worse than always answering the mean; "" for neither."""
    return "diverged" if failed(row) else "NMSE above 1" if finite(row, "nmse") and row["nmse"] > 1 else ""


def remarks(row: Mapping[str, Any]) -> list[str]:
    """Sentences about a trained SAE that is not what was asked for."""
    sentences = []
    if mark(row) == "NMSE above 1":
        sentences.append(
            f"NMSE {row['nmse']:.3g} is worse than always answering the mean: lower lr, or check the activations"
        )
    if missed_target(row):
        sentences.append(f"L0 {row['l0']:.1f} missed l0_target={row['l0_target']:g} by more than 10 %: train longer")
    return sentences
