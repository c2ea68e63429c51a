"""The measures of a bench that `saev evaluate`, `saev.stability` and `saev probe` compute."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from saev.dictionary import Dictionary
from saev.dictionary_bench.measured import Measured, absent
from saev.dictionary_bench.preparing import BenchImages, Selections
from saev.dictionary_bench.settings import BenchSettings
from saev.evaluation.compared import without_seed
from saev.evaluation.settings import EvaluateSettings
from saev.evaluation.splicing import Splicing, recovered_sums
from saev.evaluation.stability import Stability, compare
from saev.metrics.functional import coherence
from saev.metrics.resampling import MIN_IMAGES, draws
from saev.probing.pipeline import ProbeResult, probe
from saev.probing.rows import mean_of_classes
from saev.probing.settings import ProbeSettings
from saev.probing.splits import TRUE
from saev.saved import SavedDictionary, shared_passes

SPLICED = "splice_recovered_patches"
PROBED = {"probe_map": "map", "probe_r": "r", "probe_coverage": "coverage_0.3"}
COVERED = 0.3  # average precision
# Measures of atoms, and what each is compared with.
STABLE = {
    "stability_cosine": "tokens_cosine",
    "stability_start": None,
    "stability_correlation": "tokens_correlation",
}
Measures = dict[str, Measured]


def of_atoms(members: Mapping[str, Dictionary]) -> dict[str, Measures]:
    """The largest |cosine| of two atoms: exact, of the dictionary alone, so that there is no interval."""
    return {
        name: {"coherence": Measured(coherence(one.atoms).max.item(), n=one.n_latents)} for name, one in members.items()
    }


def spliced(
    saved: Sequence[SavedDictionary],
    members: Mapping[str, Dictionary],
    chosen: Selections,
    images: BenchImages,
    settings: BenchSettings,
    device: str,
) -> dict[str, Measures]:
    """The final patches that survive where reconstructions are put back into the backbone; `n`: images."""
    splicing = Splicing.prepare(
        images.recorded, images.vit, EvaluateSettings(splice_images=settings.splice_images, device=device)
    )
    assert splicing is not None, "without images and backbone nothing is spliced"
    sites, backbone = splicing.sites(saved, chosen), splicing.vit.load(device)
    out = {}
    for group in shared_passes(chosen):
        together = {name: members[name] for name in group}
        for name, fidelity in splicing.splice(together, sites, chosen[group[0]], backbone).items():
            sums = recovered_sums(fidelity).get(SPLICED)
            out[name] = {SPLICED: absent("the mean activation changes no final patch")}
            if sums is not None:
                top, bottom = sums
                drawn = draws(len(top), settings.bootstrap if len(top) >= MIN_IMAGES else 0, settings.seed)
                resampled = (top @ drawn) / (bottom @ drawn)
                units = top * len(top) / bottom.sum()
                out[name] = {SPLICED: Measured(top.sum() / bottom.sum(), 0.0, len(top), resampled, units=units)}
    return out


def have_seeds(saved: Sequence[SavedDictionary]) -> bool:
    """Whether two of the dictionaries differ by their seed alone."""
    return len({without_seed(one) for one in saved}) < len(saved)


def stability_of(
    saved: Sequence[SavedDictionary],
    members: Mapping[str, Dictionary],
    chosen: Selections,
    settings: BenchSettings,
    device: str,
    progress: bool,
) -> Stability:
    """Stability over the seeds of each group of dictionaries."""
    options = EvaluateSettings(batch_size=settings.batch_size, stability=True, stability_among="seeds", device=device)
    return compare(saved, members, chosen, options, None, device, progress)


def stable(stability: Stability, saved: Sequence[SavedDictionary], settings: BenchSettings) -> dict[str, Measures]:
    """STABLE of each dictionary: means over its latents, whose resamples give the interval. Dictionaries that differ by their seed deviate
    together, as the stability of one is that of the others; those of other methods independently."""
    groups = {name: i for i, name in enumerate(dict.fromkeys(without_seed(one) for one in saved))}
    group_of = {one.name: groups[without_seed(one)] for one in saved}
    deviations: dict[tuple[int, str], np.ndarray] = {}
    out: dict[str, Measures] = {}
    for row in stability.dictionaries.iter_rows(named=True):
        member = row["member"]
        latents = stability.latents.filter(member=member)
        out[member] = {}
        for index, (name, null) in enumerate(STABLE.items()):
            values = latents[name].to_numpy().astype(np.float64)
            if np.isnan(values).any():
                continue
            key = (group_of[member], name)
            if key not in deviations:
                levels, counts = np.unique(values, return_counts=True)  # few: there are as many as other seeds
                rng = np.random.default_rng([settings.seed, group_of[member], index])
                times = rng.multinomial(len(values), counts / len(values), size=settings.bootstrap)
                deviations[key] = times @ levels / len(values) - values.mean()
            reference = none_is_nan(row.get(null)) if null else float("nan")
            resampled = values.mean() + deviations[key]
            out[member][name] = Measured(float(values.mean()), reference, len(values), resampled)
    return out


def probed(
    saved: Sequence[SavedDictionary], chosen: Selections, settings: BenchSettings, device: str
) -> dict[str, Measures]:
    """PROBED of each dictionary whose recording has labels of patches."""
    out = {}
    options = ProbeSettings(
        tokens="patches", ignore_labels=settings.ignore_labels, bootstrap=settings.bootstrap, seed=settings.seed
    )
    for group in shared_passes(chosen):
        selection = chosen[group[0]]
        if selection.store.token_labels is not None:
            together = [one for one in saved if one.name in group]
            result = probe(together, selection.store, options, layer=selection.layer, device=device)
            out |= {name: of_classes(result, name) for name in group}
    return out


def of_classes(result: ProbeResult, name: str) -> Measures:
    """PROBED of one dictionary: means over classes, and in each resample of the validation images; `n`: classes."""
    rows = {row["labels"]: row for row in result.results.filter(member=name).iter_rows(named=True)}
    true, permuted = rows[TRUE], rows["permuted"]
    n = true["n_classes"]
    if not n:
        return dict.fromkeys(PROBED, absent("no class of the masks has a latent and a validation token"))
    classes = result.classes.filter(member=name, labels=TRUE)
    ap, ce, prior = (
        classes[key].cast(pl.Float64).fill_null(float("nan")).to_numpy() for key in ("ap", "ce", "ce_prevalence")
    )
    units = {
        "probe_map": ap,
        "probe_r": (prior - ce) * n / np.nansum(np.where(np.isnan(ap), np.nan, prior)),
        "probe_coverage": np.where(np.isnan(ap), np.nan, ap >= COVERED),
    }
    resampled = dict.fromkeys(PROBED, np.zeros(0))
    if (drawn := result.draws.get(name)) is not None and true.get("map_low") is not None:  # it is None for few images
        total = np.nansum(drawn.prior, 0)
        resampled = {
            "probe_map": mean_of_classes(drawn.ap),
            "probe_r": 1 - np.nansum(drawn.loss, 0) / np.where(total > 0, total, np.nan),
            "probe_coverage": mean_of_classes(np.where(np.isnan(drawn.ap), np.nan, drawn.ap >= COVERED)),
        }
    return {
        key: Measured(none_is_nan(true[column]), none_is_nan(permuted.get(column)), n, resampled[key], units=units[key])
        for key, column in PROBED.items()
    }


def none_is_nan(value: float | None) -> float:
    """The value, NaN for None."""
    return float("nan") if value is None else float(value)
