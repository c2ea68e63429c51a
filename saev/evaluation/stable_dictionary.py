"""The stable latents of several seeds as one dictionary, which is saved, evaluated and probed as any other."""

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from saev.checkpoint import save_dictionary, start_of
from saev.dictionary import Dictionary
from saev.evaluation.compared import without_seed
from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.sparsifiers import JumpReLU, SparsifierSettings
from saev.runs.tables import write_table
from saev.saved import SavedDictionary

log = logging.getLogger(__name__)


class Stable(NamedTuple):
    """The chosen latents: of each its dictionary, its number there, and in how many of the other dictionaries it has a partner."""

    member: Int64[np.ndarray, " n"]  # number in the list of names
    latent: Int64[np.ndarray, " n"]
    partners: Int64[np.ndarray, " n"]


def stable_latents(partners: pl.DataFrame, names: Sequence[str], sizes: Sequence[int], fraction: float) -> Stable:
    """One latent of each group of stable ones, those with a one-to-one partner in at least this fraction of the other dictionaries.

    A group is what partners connect, directly or by other stable latents. It is represented by the latent with the most partners, of
    those the one with the largest sum of cosines, of those the first. `partners`: of `Stability`; `names`: the dictionaries.
    """
    first = np.concatenate([[0], np.cumsum(sizes)])
    of = pl.DataFrame({"name": names, "first": first[:-1]})
    for side, number in (("a", "latent"), ("b", "partner")):
        partners = partners.join(of, left_on=side, right_on="name", maintain_order="left")
        partners = partners.with_columns(pl.col(number) + pl.col("first")).drop("first")
    a, b, cosine = (partners[name].to_numpy() for name in ("latent", "partner", "cosine"))
    n = int(first[-1])
    count = np.bincount(np.concatenate([a, b]), minlength=n)
    cosines = np.bincount(np.concatenate([a, b]), np.concatenate([cosine, cosine]), minlength=n)
    stable = count >= fraction * (len(names) - 1) - 1e-9
    kept = stable[a] & stable[b]
    group = connected_components(coo_matrix((np.ones(kept.sum()), (a[kept], b[kept])), (n, n)), directed=False)[1]
    order = np.lexsort((np.arange(n), -cosines, -count, group))
    order = order[stable[order]]
    chosen = np.sort(order[np.diff(group[order], prepend=-1) != 0])
    member = np.searchsorted(first, chosen, "right") - 1
    return Stable(member, chosen - first[member], count[chosen])


@torch.no_grad()
def joined(members: Sequence[SparseAutoencoder], rows: Sequence[Int64[Tensor, " _"]]) -> SparseAutoencoder:
    """An autoencoder of these latents of each member, in this order, with the pre-activations that they have there.

    b_dec is the mean of the members', and the difference is moved into b_enc. Thresholds go with their latents, so a BatchTopK, or a TopK
    with a threshold, becomes a JumpReLU with the same codes. Another TopK still takes the k largest, now of these latents alone.

    Raises ValueError for members of different sparsifiers or normalisers, and where there is no latent.
    """
    check_joinable(members)
    saes, n = [one.finalised() for one in members], sum(map(len, rows))
    if n == 0:
        raise ValueError("no latent is stable: lower stability_pooled.")
    thresholds = [one.sparsifier.threshold for one in saes]
    settings = joined_settings(saes[0], n)
    sae = SparseAutoencoder(saes[0].d_model, n, settings, saes[0].normaliser).to(saes[0].w_dec.device)
    sae.b_dec.copy_(torch.stack([one.b_dec for one in saes]).mean(0))
    moved = [one.b_enc - one.encoder @ (one.b_dec - sae.b_dec) for one in saes]
    per_latent = {sae.encoder: [one.encoder for one in saes], sae.w_dec: [one.w_dec for one in saes], sae.b_enc: moved}
    for name, parameter in sae.sparsifier.named_parameters():
        known = [dict(one.sparsifier.named_parameters()).get(name) for one in saes]
        if name == "theta":
            known = [threshold.expand(one.n_latents) for threshold, one in zip(thresholds, saes, strict=True)]  # type: ignore[union-attr]
        per_latent[parameter] = known  # type: ignore[assignment]
    for parameter, values in per_latent.items():
        parameter.copy_(torch.cat([value[row.to(value.device)] for value, row in zip(values, rows, strict=True)]))
    return sae.eval()


def joined_settings(sae: SparseAutoencoder, n: int) -> SparsifierSettings:
    """The settings of n latents of such an autoencoder: with a threshold per latent where it has any."""
    settings = sae.sparsifier.settings
    if sae.sparsifier.threshold is not None and not isinstance(settings, JumpReLU):
        return JumpReLU()
    changed = {"l0_target": None, "k": min(n, getattr(settings, "k", n))}
    return dataclasses.replace(settings, **{k: value for k, value in changed.items() if hasattr(settings, k)})


def check_joinable(members: Sequence[Dictionary]) -> None:
    """ValueError where the latents of dictionaries cannot be put into one."""
    first = members[0]
    for one in members:
        if not isinstance(one, SparseAutoencoder) or not isinstance(first, SparseAutoencoder):
            raise ValueError(f"stability_pooled: a {type(one).__name__} is no sparse autoencoder, leave it out.")
        if one.sparsifier.settings != first.sparsifier.settings or one.d_model != first.d_model:
            raise ValueError("stability_pooled: dictionaries of different sparsifiers or widths cannot be pooled.")
        pairs = zip(one.normaliser.state_dict().values(), first.normaliser.state_dict().values(), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise ValueError(
                "stability_pooled: the dictionaries normalise activations differently (another recording, layer or normalise=): pool those "
                "that were trained on the same."
            )


def series(saved: Sequence[SavedDictionary], members: Mapping[str, Dictionary]) -> list[list[SavedDictionary]]:
    """The dictionaries that differ in nothing but their seed, where there are several; ValueError where there are none, or some cannot be
    pooled."""
    groups: dict[str, list[SavedDictionary]] = {}
    for one in saved:
        if isinstance(members[one.name], SparseAutoencoder) and not one.provenance.get("failed"):
            groups.setdefault(without_seed(one), []).append(one)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        raise ValueError(
            "stability_pooled: no two of the autoencoders differ in their seed alone: train with -m seed=0,1,2."
        )
    for group in several:
        check_joinable([members[one.name] for one in group])
    return several


def write_stable(
    groups: Sequence[Sequence[SavedDictionary]],
    members: Mapping[str, Dictionary],
    partners: pl.DataFrame,
    fraction: float,
    directory: Path,
) -> list[Path]:
    """Save the stable latents of each group as a dictionary in `directory`/saes; the folders.

    stable.parquet beside its config.json says which latent (`latent`) of which dictionary (`member`, `of`) each one is, and its `partners`.
    """
    folders: list[Path] = []
    for group in groups:
        names = [one.name for one in group]
        saes: list[SparseAutoencoder] = [members[name] for name in names]  # type: ignore[misc]
        chosen = stable_latents(partners, names, [one.n_latents for one in saes], fraction)
        if not len(chosen.latent):
            log.warning("stability_pooled=%g: no latent of %s is stable", fraction, ", ".join(names))
            continue
        rows = [torch.from_numpy(chosen.latent[chosen.member == i]) for i in range(len(saes))]
        sae, starts = joined(saes, rows), [start_of(one.path) if one.path is not None else None for one in group]
        known = [start[row] for start, row in zip(starts, rows, strict=True) if start is not None]
        name = re.sub(r",?seed=\d+", "", names[0].split("/")[-1]).strip(",") + ",stable"
        folder = (
            directory / "saes" / (name if all(name != other.name for other in folders) else f"{name},{len(folders)}")
        )
        settings = {k: value for k, value in (group[0].config.get("hyperparameters") or {}).items() if k != "seed"}
        settings |= {"d_sae": sae.n_latents, "pooled_seeds": len(group), "pooled_fraction": fraction}
        save_dictionary(
            sae, folder, start=torch.cat(known) if len(known) == len(saes) else None, hyperparameters=settings,
            provenance=dict(group[0].provenance),
        )  # fmt: skip
        table = {"latent": np.arange(sae.n_latents), "member": [names[i] for i in chosen.member], "of": chosen.latent}
        write_table(folder, "stable", pl.DataFrame({**table, "partners": chosen.partners}), csv=False)
        folders.append(folder)
    return folders
