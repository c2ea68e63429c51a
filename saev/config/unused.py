"""Settings of a single SAE or baseline that have no effect on it: refused if no member uses them, else left out of a sweep's members."""

from collections.abc import Callable, Iterable, Sequence

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from saev.runs.planning import PER_BASELINE, Job

PENALISED = ", or use sae=relu, gated or jumprelu"
KEYS = {
    "sae": {"k": ", or use sae=topk or batchtopk", "sparsity": PENALISED, "l0_target": PENALISED, "expansion": ""},
    "baseline": dict.fromkeys(PER_BASELINE[1:], ""),
}  # group -> root keys that some of its options do not take -> remedy


def unused(composed: DictConfig, overrides: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Of the overrides of root keys that the member of this configuration does not use: (reason, remedy)."""
    group = "baseline" if "baseline" in composed else "sae"
    result = {}
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        if key not in KEYS[group]:
            continue
        if key == "expansion":
            if composed.d_sae is not None:
                result[override] = (f"beside d_sae={composed.d_sae}", "drop one of them")
        elif key not in composed[group]:
            choice = (composed.get("hydra") or HydraConfig.get()).runtime.choices[group]
            result[override] = (f"as {group}={choice} has no {key}", f"drop it{KEYS[group][key]}")
        elif not OmegaConf.is_interpolation(composed[group], key):
            result[override] = (f"as {group}.{key} is set by itself", f"drop it, or set {group}.{key}")
    return result


def check_used(members: Sequence[tuple[Sequence[str], dict[str, tuple[str, str]]]]) -> None:
    """ValueError for an override without effect on any member it is given for; `members`: (all overrides, the unused ones)."""
    used = {override for overrides, idle in members for override in overrides if override not in idle}
    for _, idle in members:
        for override, (_, remedy) in idle.items():
            if override not in used:
                reasons = dict.fromkeys(others[override][0] for _, others in members if override in others)
                raise ValueError(f"{override} has no effect {', '.join(reasons)}: {remedy}.")


def effective(jobs: Sequence[Job], compose: Callable[[list[str]], DictConfig]) -> list[Job]:
    """The jobs of a sweep, each member with the settings that have an effect on it; members that are then equal count once.

    ValueError for a setting that has no effect on any member of any job.
    """
    result, members = [], []
    for job in jobs:
        idle = [unused(compose([*job.shared, *variant]), variant) for variant in job.variants]
        members += zip(job.variants, idle, strict=True)
        kept = [tuple(o for o in v if o not in of) for v, of in zip(job.variants, idle, strict=True)]
        result.append(Job(job.shared, [list(variant) for variant in dict.fromkeys(kept)]))
    check_used(members)
    return result
