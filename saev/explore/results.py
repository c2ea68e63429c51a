"""What probes, traits, contrasts and evaluations below some directories say about the latents of one dictionary."""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import yaml

from saev.files import read_parquet
from saev.saved import SavedDictionary
from saev.shards.manifest import FILE as MANIFEST

TABLES = ("classes.parquet", "traits.parquet", "contrast.parquet", "stability_latents.parquet")
CONFIGS = (".hydra/config.yaml", "config.yaml")


def result_files(directories: Sequence[Path]) -> dict[str, list[Path]]:
    """The tables of probes, traits, contrasts and evaluations below the directories, by name; recordings and codes are not searched."""
    files: dict[str, list[Path]] = {name: [] for name in TABLES}
    for directory in directories:
        for folder, below, names in os.walk(directory):
            below[:] = [] if MANIFEST in names else sorted(name for name in below if name not in ("saes", ".hydra"))
            for name in {*TABLES} & {*names}:
                files[name].append(Path(folder, name))
    return {name: sorted({path.resolve() for path in paths}) for name, paths in files.items()}


def best_classes(files: Sequence[Path], one: SavedDictionary) -> pl.DataFrame:
    """Of each latent that is a class's best latent: latent, class, class_ap, class_low (end of the 95 % interval), of the class with
    the highest lower end."""
    columns = {"latent": pl.Int64, "class": pl.String, "class_ap": pl.Float64, "class_low": pl.Float64}
    tables = []
    for file in files:
        table = read_parquet(file)
        if not {"member", "latent", "class", "ap"} <= {*table.columns} or not probed(file.parent, table, one):
            continue
        low = pl.col("ap_low").cast(pl.Float64) if "ap_low" in table.columns else pl.lit(None, pl.Float64)
        rows = table.filter(
            pl.col("member").is_in(names_of(one)),
            pl.col("labels") == "true",
            pl.col("ap").is_not_null(),
            pl.col("latent") >= 0,
        )
        name = pl.when(pl.col("sign") < 0).then(pl.lit("not ")).otherwise(pl.lit("")) + pl.col("class").cast(pl.String)
        tables.append(rows.select(pl.col("latent").cast(pl.Int64), name.alias("class"), class_ap="ap", class_low=low))
    return best_of(tables, columns, pl.col("class_low").fill_null(0), pl.col("class_ap"))


def probed(folder: Path, table: pl.DataFrame, one: SavedDictionary) -> bool:
    """Whether a probe is of this dictionary, as far as it says: the activations and layer that it was trained on, and its path."""
    for column, trained in (("train_dataset", "dataset"), ("layer", "layer")):
        value = one.provenance.get(trained)
        if column in table.columns and value is not None and value not in table[column].to_list():
            return False
    config = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if config is None or one.path is None:
        return True
    named = (yaml.safe_load(config.read_text()) or {}).get("dictionaries") or []
    if not all(
        Path(name).exists() for name in named
    ):  # relative to a folder that is not known, or moved: the name decides
        return True
    return not named or any(one.path.resolve().is_relative_to(Path(name).resolve()) for name in named)


def names_of(one: SavedDictionary) -> list[str]:
    """The names by which results may call a dictionary: its folder's, that with the run's, and its own."""
    if one.path is None:
        return [one.name]
    return [one.path.name, "/".join(part for part in one.path.parts[-3:] if part != "saes"), one.name]


def best_traits(files: Sequence[Path], sha256: str) -> pl.DataFrame:
    """Of each latent that was chosen for a trait: latent, trait, trait_ap, trait_low, trait_gain (its AP minus that of a constant
    score), of the trait whose lower end exceeds the AP of a constant score by most. `sha256`: of the dictionary's weights."""
    columns = {"latent": pl.Int64, "trait": pl.String} | dict.fromkeys(
        ("trait_ap", "trait_low", "trait_gain"), pl.Float64
    )
    tables = []
    for file in files:
        table = read_parquet(file)
        if not {
            "prototype",
            "trait",
            "test_ap",
            "ap_low",
            "constant_ap",
            "sha256",
            "labels",
            "status",
            "n_latents",
        } <= {*table.columns}:
            continue
        rows = table.filter(
            pl.col("sha256") == sha256, pl.col("labels") == "true", pl.col("status") == "ok", pl.col("n_latents") == 1,
            pl.col("test_ap").is_not_null(), pl.col("prototype") >= 0,
        )  # fmt: skip
        tables.append(
            rows.select(
                latent=pl.col("prototype").cast(pl.Int64), trait=pl.col("trait").cast(pl.String),
                trait_ap="test_ap", trait_low="ap_low", trait_gain=pl.col("test_ap") - pl.col("constant_ap"),
            )
        )  # fmt: skip
    return best_of(tables, columns, pl.col("trait_gain") + (pl.col("trait_low") - pl.col("trait_ap")).fill_null(0))


def best_contrasts(files: Sequence[Path], sha256: str) -> pl.DataFrame:
    """Of each latent: latent, pair, p_family, q, auroc of the pair of groups that it separates with the smallest family-wise p-value
    (of equal ones the AUROC furthest from 0.5). `sha256`: of the dictionary's weights."""
    columns = {"latent": pl.Int64, "pair": pl.String} | dict.fromkeys(("p_family", "q", "auroc"), pl.Float64)
    tables = []
    for file in files:
        table = read_parquet(file)
        if not {"latent", "pair", "p_family", "q", "auroc", "sha256"} <= {*table.columns}:
            continue
        rows = table.filter(pl.col("sha256") == sha256, pl.col("p_family").is_not_null())
        tables.append(rows.select(*columns).cast(columns))  # type: ignore[arg-type]
    return best_of(tables, columns, -pl.col("p_family"), (pl.col("auroc") - 0.5).abs())


def stabilities(files: Sequence[Path], sha256: str) -> pl.DataFrame:
    """Of each latent: latent, stability (the fraction of other dictionaries in which it has a partner by the cosine of atoms, or, where no
    atoms were compared, by the correlation of codes), of the table with the most others. `sha256`: of the dictionary's weights."""
    columns = {"latent": pl.Int64, "stability": pl.Float64, "n_others": pl.Int64}
    read = ("latent", "sha256", "stability_cosine", "stability_correlation", "others_cosine", "others_correlation")
    tables = []
    for file in files:
        table = read_parquet(file)
        if {*read} <= {*table.columns}:
            rows = table.filter(pl.col("sha256") == sha256)
            by_atoms = pl.col("stability_cosine").is_not_null()
            n_others = pl.when(by_atoms).then("others_cosine").otherwise("others_correlation")
            rows = rows.select(
                "latent", stability=pl.coalesce("stability_cosine", "stability_correlation"), n_others=n_others
            )
            tables.append(rows)
    return best_of(tables, columns, pl.col("n_others")).drop("n_others")


def best_of(tables: Sequence[pl.DataFrame], columns: dict, *highest: pl.Expr) -> pl.DataFrame:
    """Of each latent the row with the highest values of `highest`, by latent."""
    if not tables:
        return pl.DataFrame(schema=columns)
    table = pl.concat([table.cast(columns) for table in tables])  # type: ignore[arg-type]
    table = table.sort(*highest, descending=True, nulls_last=True)
    return table.unique("latent", keep="first", maintain_order=True).sort("latent")
