"""The rows that a table compares all others with (`against=`), and rows that differ by seed only, summed up."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from saev.metrics.paired import over_seeds, seed_groups
from saev.saved import SavedDictionary
from saev.scoring.scorers import kind_of


def reference_rows(against: str, kinds: Mapping[str, str], settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the rows that `against` means: the row of this name, or else those of this kind, those with it between the commas of
    their name, those that have it in their name; several only where they differ by seed alone.

    `kinds`, `settings`: of each row, by its name. ValueError where none is meant, or several that differ otherwise.
    """
    ways: tuple[Callable[[str, str], bool], ...] = (
        lambda name, kind: name == against,
        lambda name, kind: kind == against,
        lambda name, kind: against in name.split(","),
        lambda name, kind: against in name,
    )
    for meant in ways:
        names = [name for name, kind in kinds.items() if meant(name, kind)]
        if len(names) > 1 and len({*seed_groups([settings.get(name, {}) for name in names]).tolist()}) > 1:
            raise ValueError(
                f"against={against}: {', '.join(names)} are meant, and differ by more than the seed: name one."
            )
        if names:
            return names
    known = [*dict.fromkeys([*kinds, *kinds.values()])]
    close = difflib.get_close_matches(against, known, 3, 0.5) or known[:6]
    raise ValueError(f"against={against} is no row's name and no kind of one. Close: {', '.join(close)}.")


def reference_dictionaries(against: str | None, saved: Sequence[SavedDictionary]) -> list[str]:
    """`reference_rows` of dictionaries; none for None."""
    kinds = {one.name: kind_of(one) for one in saved}
    return [] if against is None else reference_rows(against, kinds, {one.name: settings_of(one) for one in saved})


def settings_of(one: SavedDictionary) -> dict[str, Any]:
    """What a dictionary was trained with and on: equal but for `seed` where dictionaries differ by seed only."""
    settings = one.config.get("hyperparameters") or {}
    about = {key: one.provenance.get(key) for key in ("dataset", "dataset_fingerprint", "layer", "token_roles")}
    about |= {key: one.config.get(key) for key in ("kind", "d_model")}
    named = {} if "seed" in settings else {"name": one.name}  # whether they differ by a seed is not known
    return {**settings, "d_sae": one.config["n_latents"], **about, **named}


def seed_rows(
    rows: Sequence[Mapping[str, Any]],
    saved: Sequence[SavedDictionary],
    numbers: Sequence[str],
    reference: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """A row per group of dictionaries that differ by seed only: members, n_seeds, and mean (`<number>`) and `<number>_std` of each number.

    With a reference, `diff_<number>` is the difference of the mean to the reference's. `rows`: one per dictionary, in their order.
    """
    groups = seed_groups([settings_of(one) for one in saved])
    names = np.array([one.name for one in saved], object)
    values = {key: np.array([np.nan if row.get(key) is None else row[key] for row in rows], float) for key in numbers}
    out = []
    for group in range(int(groups.max(initial=-1)) + 1):
        chosen = groups == group
        row: dict[str, Any] = {"members": ", ".join(names[chosen]), "n_seeds": int(chosen.sum())}
        for key, of in values.items():
            summed = over_seeds(of[chosen])
            row |= {key: summed.mean, f"{key}_std": summed.std}
            if len(reference):
                row[f"diff_{key}"] = summed.mean - over_seeds(of[np.isin(names, list(reference))]).mean
        out.append({key: None if value != value else value for key, value in row.items()})
    return out


def seed_table(
    rows: Mapping[str, Mapping[str, Any]],
    saved: Sequence[SavedDictionary],
    numbers: Sequence[str],
    reference: Sequence[str] = (),
) -> pl.DataFrame | None:
    """`seed_rows` as a table, from the row of each dictionary by its name; None where no two dictionaries differ by seed only."""
    kept = [one for one in saved if one.name in rows]
    if len({*seed_groups([settings_of(one) for one in kept]).tolist()}) == len(kept):
        return None
    return pl.DataFrame(seed_rows([rows[one.name] for one in kept], kept, numbers, reference), infer_schema_length=None)
