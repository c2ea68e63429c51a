"""Bounds that are declared with a field are checked when the settings are made."""

import dataclasses
from typing import Literal

import pytest
from omegaconf import OmegaConf

from saev.config.build import build
from saev.settings import bounded, check


@dataclasses.dataclass(frozen=True)
class Inner:
    ridges: tuple[float, ...] = bounded((1.0,), above=0)

    def __post_init__(self):
        check(self, "inner.")


@dataclasses.dataclass(frozen=True)
class Outer:
    batch_size: int = bounded(8, at_least=1)
    fraction: float = bounded(0.1, above=0, at_most=1)
    clip: float | None = bounded(None, above=0, hint="clip=1e9: none")
    mode: Literal["none", "scalar"] = "none"
    levels: tuple[Literal["token", "image"], ...] = ()
    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self):
        check(self)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: must be at least 1."),
        ({"fraction": 1.5}, "fraction=1.5: must be at most 1."),
        ({"clip": 0.0}, "clip=0.0: must be above 0 (clip=1e9: none)."),
        ({"mode": "all"}, "mode=all: choose none or scalar."),
        ({"levels": ("token", "pixel")}, "levels=[token,pixel]: choose token or image."),
    ],
)
def test_a_value_out_of_bounds_is_named_with_the_remedy(arguments, message):
    with pytest.raises(ValueError) as error:
        Outer(**arguments)
    assert str(error.value) == message


def test_settings_are_built_from_the_keys_that_they_have():
    cfg = OmegaConf.create({"batch_size": 4, "levels": ["image"], "inner": {"ridges": [0.5]}, "vit": {"a": 1}})
    assert build(Outer, cfg, mode="scalar") == Outer(4, mode="scalar", levels=("image",), inner=Inner((0.5,)))
    with pytest.raises(ValueError, match=r"inner\.ridges=\[0\]: must be above 0"):
        build(Outer, OmegaConf.create({"inner": {"ridges": [0]}}))
