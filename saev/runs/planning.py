"""Plan a sweep: combinations whose composed configurations differ only in the settings of a single SAE share a job.

Works on plain strings and mappings; the Hydra plugin around it is hydra_plugins/saev_sweeper.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from saev.nn.settings import Member
from saev.runs.quoting import quote

LONGEST = 100  # characters of a name: file systems take 255 bytes, W&B 128
GROUPS = {
    "sae": "sparsifier",
    "objective": "objective",
    "auxk": "auxk",
    "decoder": "decoder",
}  # group of conf/ -> field of Member
ROOT_SETTINGS = ("sparsity", "l0_target", "k", "dead_tokens")  # fields of sparsifiers and AuxK that have a root key
SCALARS = tuple(field.name for field in dataclasses.fields(Member) if field.name not in (*GROUPS.values(), "name"))
LABEL = "label"  # of SCALARS the key that names a variant
PER_SAE = (*GROUPS, *ROOT_SETTINGS, *SCALARS)
PER_BASELINE = ("baseline", "n_latents", "k", "passes", "seed")
PER_MEMBER = tuple(dict.fromkeys((*PER_SAE, *PER_BASELINE)))
Variant = list[str]  # the overrides of one member


def key_of(override: str) -> str:
    """The root key that an override sets.

    >>> key_of("sae.k=5"), key_of("+k=3"), key_of("~auxk"), key_of("sae@other=topk")
    ('sae', 'k', 'auxk', 'sae')
    """
    return re.split(r"[=.@]", override.lstrip("+~"), maxsplit=1)[0]


def is_per_sae(override: str) -> bool:
    """Whether the override sets a key of a single SAE or of a single baseline."""
    return key_of(override) in PER_MEMBER


def members(variants: Sequence[Variant], overrides: Sequence[str]) -> list[Variant]:
    """The variants of an experiment after per-SAE `overrides`.

    A key that no variant sets applies to each of them (seed=1 trains the same bank with another seed).
    A key that a variant sets replaces the bank by the single SAE of the overrides. Where variants have labels, their comparison is the
    purpose: the bank stays, and the key applies to the variants that do not set it. ValueError where all of them set it.

    >>> members([["k=8"], ["k=16"]], ["seed=1"])
    [['k=8', 'seed=1'], ['k=16', 'seed=1']]
    >>> members([["k=8"], ["k=16"]], ["k=32"])
    [['k=32']]
    >>> members([["label=a"], ["init=random", "label=b"]], ["init=kmeans"])
    [['label=a', 'init=kmeans'], ['init=random', 'label=b']]
    """
    own = [override for override in overrides if is_per_sae(override)]
    fixed = [{key_of(override) for override in variant} for variant in variants]
    if not any(LABEL in keys for keys in fixed):
        if not variants or set().union(*fixed) & {key_of(override) for override in own}:
            return [own]
        return [[*variant, *own] for variant in variants]
    in_all = set.intersection(*fixed)
    if idle := [override for override in own if key_of(override) in in_all]:
        raise ValueError(
            f"{', '.join(idle)}: no effect, all {len(variants)} SAEs of this experiment set {key_of(idle[0])} themselves: leave it out, or "
            "train a single SAE with experiment=none."
        )
    return [[*of, *(o for o in own if key_of(o) not in keys)] for of, keys in zip(variants, fixed, strict=True)]


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of a sweep: the overrides shared by its members, and those of each member."""

    shared: list[str]
    variants: list[Variant]

    @property
    def overrides(self) -> list[str]:
        """The job's command line."""
        quoted = ",".join("[" + ",".join(quote(o) for o in variant) + "]" for variant in self.variants)
        return [*self.shared, f"variants=[{quoted}]"]

    def parts(self, sizes: Sequence[int]) -> list["Job"]:
        """The job divided into jobs of these numbers of members, in order."""
        ends = list(itertools.accumulate(sizes, initial=0))
        return [Job(self.shared, self.variants[a:b]) for a, b in itertools.pairwise(ends)]


def plan(combinations: Sequence[tuple[Sequence[str], Mapping[str, Any]]]) -> list[Job]:
    """Jobs for (overrides, composed configuration) pairs, in the order given."""
    jobs: dict[str, Job] = {}
    for overrides, config in combinations:
        rest = {key: value for key, value in config.items() if key not in (*PER_MEMBER, "variants", "hydra")}
        shared = [override for override in overrides if not is_per_sae(override)]
        # the overrides too: experiments that differ only within a single SAE may agree in the rest
        key = json.dumps([rest, sorted(shared)], sort_keys=True, default=str)
        job = jobs.setdefault(key, Job(shared, []))
        job.variants.extend(m for m in members(config.get("variants") or [], overrides) if m not in job.variants)
    return list(jobs.values())


def split(fixed: Sequence[int], passing: Sequence[int], max_members: int, budget: float = math.inf) -> list[int]:
    """Numbers of members per job, so that no job has more than `max_members` or needs more than `budget` bytes.

    A member needs `fixed` bytes for the whole run and `passing` bytes during its step; of the latter the largest counts. A
    member above the budget gets its own job.

    >>> split([4, 4, 4, 4, 4], [1, 1, 1, 1, 1], max_members=3)
    [3, 2]
    >>> split([4, 4, 4, 40], [1, 3, 1, 1], max_members=8, budget=11)
    [2, 1, 1]
    """
    if max_members < 1:
        raise ValueError(f"hydra.sweeper.max_members={max_members}: must be at least 1.")
    sizes, held, largest = [], 0, 0
    for own, during in zip(fixed, passing, strict=True):
        if sizes and sizes[-1] < max_members and held + own + max(largest, during) <= budget:
            sizes[-1] += 1
            held, largest = held + own, max(largest, during)
        else:
            sizes.append(1)
            held, largest = own, during
    return sizes


def labels(jobs: Sequence[Job]) -> list[str]:
    """The settings in which each job differs from the others, e.g. "layer=13", or those of its only SAE; empty without any."""
    common = set.intersection(*(set(job.shared) for job in jobs))
    found = [[o for o in job.shared if o not in common] for job in jobs]
    variants = [[short(o) for o in labelled(job.variants[0])] if len(job.variants) == 1 else [] for job in jobs]
    same = set.intersection(*map(set, variants))
    alone = [[o for o in variant if o not in same] if len(jobs) > 1 else [] for variant in variants]
    return [",".join([*own, *of]) for own, of in zip(found, alone, strict=True)]


def folders(jobs: Sequence[Job]) -> list[str]:
    """A folder name for each job: its number and its label.

    >>> folders([Job(["layer=13", "lr=1"], []), Job(["layer=23", "lr=1"], [])]), folders([Job(["layer=13"], [])])
    (['0_layer=13', '1_layer=23'], ['0'])
    """
    return [f"{i}_{safe(label)}" if label else str(i) for i, label in enumerate(labels(jobs))]


def describe(jobs: Sequence[Job]) -> str:
    """One line about a plan, e.g. "6 SAEs in 2 jobs: layer=13 x3, layer=23 x3"."""
    parts = [f"{label or 'all'} x{len(job.variants)}" for label, job in zip(labels(jobs), jobs, strict=True)]
    total = sum(len(job.variants) for job in jobs)
    many = "" if len(jobs) == 1 else "s"
    return f"{total} SAE{'' if total == 1 else 's'} in {len(jobs)} job{many}: {', '.join(parts)}"


def names(variants: Sequence[Variant], alone: str = "sae") -> list[str]:
    """Names of the members: the settings in which they differ; `alone` for a single member. A `label=` stands for those before it.

    >>> names([["sae=topk", "k=8", "lr=1e-3"], ["sae=topk", "k=16", "lr=1e-3"]])
    ['k=8', 'k=16']
    >>> names([["freeze=none", "label=trained", "k=8"], ["freeze=all", "label=untrained", "k=8"]])
    ['trained', 'untrained']
    """
    given = [[*variant] for variant in variants]
    if len(variants) == 1:
        first = labelled(variants[0])
        return [safe(first[0]) if first != [*variants[0]] else alone]
    settings = [frozenset(o for o in variant if key_of(o) != LABEL) for variant in variants]
    variants = [[short(override) for override in labelled(variant)] for variant in variants]
    common = set.intersection(*(set(variant) for variant in variants))
    result = [",".join(o for o in variant if o not in common) for variant in variants]
    result = [name or ",".join(variant) or alone for name, variant in zip(result, variants, strict=True)]
    if len({*settings}) < len(settings) or len({*result}) < len(result):
        raise ValueError(
            f"variants={given}: two SAEs of the bank have the same settings or the same label; remove one, or give it another label."
        )
    return [safe(name) for name in result]


def labelled(variant: Variant) -> Variant:
    """The overrides with the last label in place of itself and of those before it."""
    last = max((i for i, override in enumerate(variant) if key_of(override) == LABEL), default=None)
    return variant if last is None else [variant[last].partition("=")[2], *variant[last + 1 :]]


def safe(name: str) -> str:
    """The name with characters replaced that are unsafe in file names; a long one is cut and ends in its hash.

    >>> safe("a/b=1"), len(safe("k=1," * 99))
    ('a_b=1', 100)
    """
    name = re.sub(r"[^\w.,=+-]", "_", name)
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def short(override: str) -> str:
    """The override with its number in the shortest form.

    >>> short("sparsity=0.0001"), short("lr=0.003"), short("k=16"), short("seed=100000"), short("sae=topk")
    ('sparsity=1e-4', 'lr=3e-3', 'k=16', 'seed=100000', 'sae=topk')
    """
    key, equals, value = override.partition("=")
    if not re.fullmatch(r"-?\d*\.\d*(e[+-]?\d+)?", value):
        return override
    digits, exponent = f"{float(value):.12e}".split("e")
    scientific = f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return key + equals + min(value, scientific, key=len)
