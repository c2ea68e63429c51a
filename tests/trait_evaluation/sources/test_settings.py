import dataclasses

import pytest
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf

from saev.trait_evaluation.sources import Columns, Cub200, Masks, Matrix, Presence, Table

FILES = {path.stem: path for path in (ROOT / "conf" / "traits").glob("*.yaml")}
SOURCES = {"columns": Columns, "cub200": Cub200, "masks": Masks, "matrix": Matrix, "presence": Presence, "table": Table}


@pytest.mark.parametrize("name", SOURCES)
def test_the_values_of_a_file_are_the_defaults_of_its_settings(name, monkeypatch):
    monkeypatch.delenv("CUB200_ROOT", raising=False)
    assert FILES.keys() == SOURCES.keys()
    cfg = OmegaConf.load(FILES[name])
    assert instantiate(cfg) == SOURCES[name]()
    assert {*cfg} - {"_target_"} == {field.name for field in dataclasses.fields(SOURCES[name])}


def test_lists_and_single_values_of_the_command_line():
    cfg = OmegaConf.create(
        {"_target_": "saev.trait_evaluation.sources.Presence", "classes": ["wing", 3], "ignore_labels": 0}
    )
    assert instantiate(cfg) == Presence(("wing", 3), (0,))
