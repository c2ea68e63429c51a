"""Configurations that differ in plain values are composed once, and are what Hydra composes."""

from functools import partial

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from saev.config import schema
from saev.config.composing import Composer


@pytest.fixture
def counted():
    """(a composer of `train`, Hydra's own function, the overrides of each composition)."""
    schema.register()
    calls = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        hydras = partial(compose, "train")
        yield Composer(lambda overrides: calls.append(overrides) or hydras(overrides)), hydras, calls


def test_values_are_set_on_copies_of_one_composition(counted):
    composer, hydras, calls = counted
    asked = (["sae=topk", "k=4", "lr=0.1"], ["k=8", "sae=topk", "k=${d_sae}"], ["sae=topk", "layer=3", "init=random"])
    for overrides in asked:
        assert composer(overrides) == hydras(overrides)
    composer(asked[0]).layer = 99
    assert composer(asked[0]) == hydras(asked[0]) and calls == [["sae=topk"]]
    assert composer(["sae=relu", "k=4"]).sae == hydras(["sae=relu"]).sae and len(calls) == 2


@pytest.mark.parametrize("wrong", [["k=four"], ["k=1,2"], ["sae=none", "k=4"], ["kk=4"]])
def test_errors_are_hydras(counted, wrong):
    composer, hydras, _ = counted
    with pytest.raises(HydraException) as expected:
        hydras(wrong)
    with pytest.raises(HydraException) as raised:
        composer(wrong)
    assert str(raised.value) == str(expected.value)
