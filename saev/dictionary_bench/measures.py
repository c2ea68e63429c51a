"""The measures of a bench: what each is, which way is better, and what its null is. No torch here."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Measure:
    """A column of the table.

    Args:
        label: heading. dimension: group, of which four are ViSAEBench's. better: higher, lower, or "" for a description.
        meaning: definition in a sentence. null: what its null is; "" for a description, which has none.
        visaebench: its name there; "" for measures of our own.
        bounds: of its values: intervals, which are shifted, are clipped to them.
        latents: where latents, probes or coalitions are chosen by the data, whether they are chosen anew in each resample of the images:
            their interval is too short where they are "fixed". "" where nothing is chosen.
        judged: whether it decides what is better, and counts among the tests of a dictionary: not where another measure here is the same
            without a fault.
    """

    label: str
    dimension: Literal[
        "reconstruction", "sparsity", "concept_detection", "spatial_coherence", "disentanglement", "stability"
    ]
    better: Literal["higher", "lower", ""]
    meaning: str
    null: str = ""
    visaebench: str = ""
    bounds: tuple[float, float] = (0, float("inf"))
    latents: Literal["", "fixed", "anew"] = ""
    judged: bool = True


FRACTION, COSINE, BELOW_1, ANY = (0.0, 1.0), (-1.0, 1.0), (-float("inf"), 1.0), (-float("inf"), float("inf"))


MEASURES: dict[str, Measure] = {
    "nmse": Measure(
        "NMSE", "reconstruction", "lower",
        "squared error over the squared distance from the mean activation", "the mean activation for every token: 1",
    ),
    "fvu": Measure(
        "FVU", "reconstruction", "lower",
        "ViSAEBench's fraction of variance unexplained, which a constant error lowers: for comparison with published numbers",
        "the mean activation for every token", "fvu",
        judged=False, bounds=ANY,
    ),
    "preservation": Measure(
        "preserved", "reconstruction", "higher",
        "accuracy of a linear probe of averaged activations on averaged reconstructions, over that on activations",
        "the mean reconstruction for every image", "downstream_preservation",
    ),
    "splice_recovered_patches": Measure(
        "spliced", "reconstruction", "higher",
        "final patches of the backbone with reconstructions put back in: 1 - error / error with the mean put in", "the mean put in: 0",
        bounds=BELOW_1,
    ),
    "l0": Measure("L0", "sparsity", "", "latents that fire on a token, on average"),
    "dead": Measure("dead", "sparsity", "lower", "fraction of the latents that fire on none of the tokens", bounds=FRACTION),
    "dense_above_0.1": Measure(
        "dense", "sparsity", "lower", "fraction of the latents that fire on over a tenth of the tokens", bounds=FRACTION,
    ),
    "coherence": Measure("coherence", "disentanglement", "", "largest |cosine| of two atoms; 1: an atom occurs twice", bounds=FRACTION),
    "morans_i": Measure(
        "Moran's I", "spatial_coherence", "higher",
        "spatial autocorrelation of a latent's map, mean over images and latents: 1 in one piece, 0 scattered",
        "patches of each image permuted", "feature_localization",
        bounds=COSINE,
    ),
    "probe_map": Measure(
        "patch mAP", "concept_detection", "higher",
        "average precision, over patches, of the best latent of each class of the masks; mean over classes", "labels of images permuted",
        bounds=FRACTION, latents="fixed",
    ),
    "probe_r": Measure(
        "patch R", "concept_detection", "higher",
        "1 - cross-entropy of the best latents over that of the prevalence, summed over classes of the masks", "labels of images permuted",
        bounds=BELOW_1, latents="fixed",
    ),
    "probe_coverage": Measure(
        "covered", "concept_detection", "higher", "fraction of the classes of the masks with an average precision of at least 0.3",
        "labels of images permuted",
        bounds=FRACTION, latents="fixed",
    ),
    "image_probes": Measure(
        "k-sparse AUC", "concept_detection", "higher",
        "accuracy of logistic regressions on the k latents with the largest F statistic, area over k = 1 to 100; latents are chosen on "
        "training images", "labels permuted",
        bounds=FRACTION, latents="fixed",
    ),
    "image_probes_leaking": Measure(
        "k-sparse AUC, leaking", "concept_detection", "higher",
        "the same with latents chosen on all images, test images among them, as ViSAEBench does", "labels permuted", "sparse_probing_auc",
        judged=False, bounds=FRACTION, latents="fixed",
    ),
    "monosemanticity": Measure(
        "monosemantic", "concept_detection", "higher",
        "cosine similarity, by another model's embeddings, of the images on which a latent fires, weighted by its codes, all pairs of "
        "images; mean over latents", "embeddings permuted among images",
        bounds=COSINE,
    ),
    "monosemanticity_top": Measure(
        "monosemantic, top 16", "concept_detection", "higher", "the same of the 16 images with the largest codes, as in ViSAEBench",
        "embeddings permuted among images", "monosemanticity",
        bounds=COSINE,
    ),
    "transfer": Measure(
        "transfer", "concept_detection", "higher",
        "on other recordings, mean of 1 - FVU, live latents that are live there, Jaccard of both sets of live latents, and the accuracy "
        "of a probe on 10 latents", "labels permuted", "cross_domain",
        bounds=BELOW_1, latents="fixed",
    ),
    "coalitions": Measure(
        "coalition F1", "concept_detection", "higher",
        "F1 of AND / OR combinations of at most four latents, chosen for each concept on one half of the images and judged on the other",
        "images permuted before the search",
        bounds=FRACTION, latents="fixed",
    ),
    "paired_images": Measure(
        "pairs", "concept_detection", "higher",
        "pairs of images that differ in one attribute, told apart by one latent that is chosen on other pairs",
        "images of a pair exchanged at random",
        bounds=FRACTION, latents="anew",
    ),
    "absorption": Measure(
        "absorbed", "disentanglement", "lower",
        "fraction of the classes that share over half of their ten strongest latents with their parent, or gain over 0.1 of F1 by three "
        "more latents, judged on held-out images", "labels permuted within each parent",
        bounds=FRACTION, latents="fixed",
    ),
    "absorption_in_sample": Measure(
        "absorbed, in sample", "disentanglement", "lower", "the same with F1 on the images it was fitted to, as in ViSAEBench",
        "labels permuted within each parent", "absorption_rate",
        judged=False, bounds=FRACTION, latents="fixed",
    ),
    "stability_cosine": Measure(
        "stable (atoms)", "stability", "higher", "fraction of the other seeds with an atom of cosine 0.7 or more, mean over latents",
        "two draws of different tokens, as many as latents",
        bounds=FRACTION,
    ),
    "stability_start": Measure(
        "stable (starts)", "stability", "",
        "the same of the atoms at the start of training: stability that is no higher may be that of a shared start (arXiv 2606.02061)",
        bounds=FRACTION,
    ),
    "stability_correlation": Measure(
        "stable (codes)", "stability", "higher",
        "fraction of the other seeds with a latent whose pooled codes correlate by 0.5 or more, mean over latents",
        "two draws of different tokens, as many as latents",
        bounds=FRACTION,
    ),
}  # fmt: skip

# What measures need that a recording or a command may not give.
NEEDS = {
    **dict.fromkeys(("preservation", "image_probes", "image_probes_leaking"), "labels="),
    **dict.fromkeys(("absorption", "absorption_in_sample"), "labels= and hierarchy="),
    **dict.fromkeys(("monosemanticity", "monosemanticity_top"), "embeddings= or vit@embedder="),
    "coalitions": "traits=, labels= or masks",
    "paired_images": "pairs=",
    "transfer": "labels= and transfer=",
    "splice_recovered_patches": "splice=true, images= and vit=",
    **dict.fromkeys(("probe_map", "probe_r", "probe_coverage"), "a recording with labels of patches"),
    **dict.fromkeys(
        ("stability_cosine", "stability_start", "stability_correlation"),
        "two dictionaries that differ by their seed alone",
    ),
}


def decisive(name: str) -> bool:
    """Whether a measure decides what is better."""
    return bool(MEASURES[name].better) and MEASURES[name].judged
