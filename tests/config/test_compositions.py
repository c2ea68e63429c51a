"""The compositions that tests keep are Hydra's."""

import pytest
from compositions import keep_compositions, use_hydras_functions
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from saev.config import schema
from saev.config.command_line import CONF

COMMANDS = (
    ("train", "experiment=none", "k=4"),
    ("train", "experiment=none", "k=8", "+sae.extra=3", "~report"),
    ("train", "experiment=matryoshka_dinov3", "k=8"),
    ("train", "sae=relu", "experiment=none", "k=8", "hydra.run.dir=x"),
    ("train", "experiment=none", "hydra/launcher=slurm"),
    ("fit", "seed=3"),
    ("fit", "seed=4"),
)


def composed(verb: str, *overrides: str) -> object:
    """Every node as YAML with whether keys may be added, or the message of the error."""
    try:
        config = compose(verb, [*overrides], return_hydra_config=True)
    except ConfigCompositionException as error:
        return str(error)
    return OmegaConf.to_yaml(config), OmegaConf.is_struct(config), OmegaConf.is_readonly(config.hydra)


@pytest.mark.slow
def test_they_are_those_of_hydra(monkeypatch: pytest.MonkeyPatch):
    schema.register()
    wrong = [("train", "experiment=none", "kk=8"), ("train", "experiment=absent"), ("train", "~sae=relu")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        use_hydras_functions(monkeypatch)
        expected = [composed(*command) for command in (*COMMANDS, *wrong)]
        keep_compositions(monkeypatch)
        assert [composed(*command) for command in (*COMMANDS, *wrong)] == expected
        assert [composed(*command) for command in (*COMMANDS, *wrong)] == expected  # the kept ones are unchanged
