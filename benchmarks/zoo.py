"""Every architecture that conf/ offers, and banks of them by name: what the benchmarks compare."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from saev.config.members import plan_members
from saev.config.schema import register
from saev.nn import Member

CONF = Path(__file__).resolve().parents[1] / "conf"
NESTED = "batchtopk"  # the sparsifier that objectives other than the plain one are tried with


def architectures() -> list[str]:
    """Choices of `sae`, and of `sae+objective` for one of them."""
    return [*_choices("sae"), *(f"{NESTED}+{objective}" for objective in _choices("objective") if objective != "plain")]


def overrides(architecture: str) -> list[str]:
    """What chooses an architecture on the command line.

    >>> overrides("batchtopk+matryoshka")
    ['sae=batchtopk', 'objective=matryoshka']
    """
    sae, _, objective = architecture.partition("+")
    return [f"sae={sae}", f"objective={objective or 'plain'}"]


def sparsity(architecture: str, l0: float) -> str:
    """The override that asks an architecture for `l0` active latents per token."""
    text = (CONF / "sae" / f"{architecture.partition('+')[0]}.yaml").read_text()
    return f"k={round(l0)}" if "${k}" in text else f"l0_target={l0:g}"


def bank(variants: Sequence[Sequence[str]]) -> str:
    """The override that asks for several SAEs.

    >>> bank([["sae=topk", "k=8"], ["sae=relu"]])
    'variants=[["sae=topk","k=8"],["sae=relu"]]'
    """
    return "variants=[" + ",".join("[" + ",".join(f'"{o}"' for o in variant) + "]" for variant in variants) + "]"


def configuration(overrides: Sequence[str]) -> DictConfig:
    """What `saev train experiment=none` would run with."""
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("train", ["experiment=none", *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


def plan(variants: Sequence[Sequence[str]], shared: Sequence[str]) -> list[Member]:
    """The members that `saev train` would train for these overrides."""
    cfg = configuration([*shared, bank(variants)])
    with initialize_config_dir(str(CONF), version_base=None):  # each member is composed anew
        return plan_members(cfg)


def _choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))
