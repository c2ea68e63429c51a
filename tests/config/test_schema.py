"""Schemas come from the settings dataclasses, and the values in conf/ are the defaults that a call from Python has."""

import dataclasses
import re
from typing import Literal

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datamodules.settings import StreamOptions
from saev.config import schema
from saev.config.build import build
from saev.nn import Member
from saev.probing.settings import ProbeSettings
from saev.runs.planning import GROUPS, PER_SAE
from saev.taxon_map.settings import MapSettings
from saev.training.settings import TrainSettings


def composed(root, *overrides):
    schema.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(root, list(overrides))


def test_a_call_from_python_has_the_defaults_of_the_command():
    cfg = composed("train", "experiment=none")
    assert build(TrainSettings, cfg) == TrainSettings()
    sparsifier = instantiate(cfg.sae)
    member = Member(sparsifier)
    for field in dataclasses.fields(Member):
        if field.name not in (*GROUPS.values(), "name"):
            assert cfg[field.name] == getattr(member, field.name), field.name
    for group, field in GROUPS.items():
        assert instantiate(cfg[group]) == getattr(member, field), group
    assert build(ProbeSettings, composed("probe")) == ProbeSettings()
    assert build(MapSettings, composed("map", "rows=[family]")) == MapSettings(rows=("family",))


def test_the_values_of_the_stream_are_the_defaults_of_its_options():
    node = OmegaConf.to_container(composed("train", "experiment=none").datamodule, resolve=False)
    literal = {key: value for key, value in node.items() if "$" not in str(value)}
    for key in {*literal} - {"_target_", "val_tokens"}:  # None from Python: all held-out tokens
        assert literal[key] == StreamOptions.__dataclass_fields__[key].default, key


def test_what_differs_between_members_is_the_member():
    scalars = {field.name for field in dataclasses.fields(Member)} - {*GROUPS.values(), "name"}
    assert scalars < {*PER_SAE} and {*GROUPS} < {*PER_SAE} and "n_tokens" not in PER_SAE


@pytest.mark.parametrize("override", ["lr=fast", "ignore_labels=7", "probe.images=many", "variants=k", "n_tokens=1.5"])
def test_a_value_of_another_type_is_refused_when_composed(override):
    with pytest.raises(ConfigCompositionException, match=f"Error merging override {re.escape(override)}"):
        composed("train", override)


def test_types_are_translated_for_omegaconf():
    assert schema.omegaconf_type(tuple[Literal["a", "b"], ...]) == list[str]
    assert schema.omegaconf_type(float | None) == float | None
    assert dataclasses.is_dataclass(schema.types_of(TrainSettings)["probe"])
