"""docs/extending.md does what it says: all its steps, applied to a copy of the repository, give a library that works."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import ROOT, TINY
from PIL import Image

PAGE = (ROOT / "docs" / "extending.md").read_text()
STEPS = re.findall(r"^`([\w./]+)`\n\n```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
SECTIONS = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")[1:]}


def apply(root: Path, name: str, language: str, block: str) -> None:
    """Write a new file, or replace the old lines of a diff, which must occur once, by its new lines."""
    file = root / name
    if language != "diff":
        assert not file.exists(), f"{name} is not new"
        file.write_text(block)
        return
    rows = block.splitlines(keepends=True)
    old, new = ("".join(row[1:] for row in rows if row[0] in marks) for marks in (" -", " +"))
    text = file.read_text()
    assert text.count(old) == 1, f"{name} has {text.count(old)} times:\n{old}"
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with every step of the page."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("saev", "conf", "callbacks", "datamodules", "hydra_plugins"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "local"))
    shutil.copy(ROOT / "train.py", root)
    for step in STEPS:
        apply(root, *step)
    photos = root / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{('acer', 'quercus-robur')[i % 2]}_{i:03}.png")
    return root


def run(copy: Path, *commands: list[str]) -> None:
    """Commands of the extended copy, in one process."""
    code = (
        "import json, sys, conftest; sys.exit([c for c in json.loads(sys.argv[1]) if conftest.command_line(*c)] or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], cwd=copy, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("section", SECTIONS)
def test_an_extension_takes_at_most_three_files(section):
    assert 1 <= len({name for name, *_ in STEPS if f"`{name}`\n\n```" in SECTIONS[section]}) <= 3


@pytest.mark.slow
def test_all_extensions_work_together(copy):
    images = ("images=leaves", "images.root=photos", "vit=micro", "layer=1")
    sweep = ("sae=fixed_threshold", "sae.threshold=0.1,0.2", "encoder_scale=0.5,1", "-m")
    neurons = ("baseline=neurons", "k=4", "batch_size=64", "hydra.run.dir=fit")
    run(
        copy,
        ["train", "experiment=none", *images, *TINY, *sweep, "hydra.sweep.dir=sweep"],
        ["fit", *images, *neurons],
        ["evaluate", "fit", "sweep", "device=cpu"],
    )
    (recording,) = (copy / "outputs" / "activations").glob("leaves-*")
    assert set(pl.read_parquet(recording / "examples.parquet")["species"]) == {"acer", "quercus-robur"}
    trained = pl.read_parquet(copy / "sweep" / "results.parquet")
    assert len(trained) == 4 and set(trained["encoder_scale"]) == {0.5, 1.0}
    assert trained["gini"].is_between(0, 1).all() and (trained["bias_norm"] > 0).all()

    (table,) = (copy / "outputs" / "evaluate").glob("*/*/results.parquet")
    assert len(pl.read_parquet(table)) == 5
