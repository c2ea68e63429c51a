"""`-m` means: share the pass over the data. A shell around saev.sweep.planning.

Every combination of the sweep is composed; those that differ in the settings of single SAEs alone become one job that
trains them as a bank, and the jobs go to whatever launcher is configured. `hydra/sweeper=basic` is stock behaviour.
"""

import logging
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


class SharedPassSweeper(BasicSweeper):
    """Hydra's basic sweeper with its combinations grouped into banks.

    Args:
        max_members: largest bank; a larger group becomes several jobs.
        params: swept parameters of the configuration (hydra.sweeper.params), as in the basic sweeper.
    """

    def __init__(self, max_members: int = 32, params: Any = None):
        super().__init__(max_batch_size=None, params=params)
        self.max_members = max_members

    def sweep(self, arguments: list[str]) -> Any:
        from saev.sweep import planning

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        combinations = []
        for overrides in self.split_arguments(parsed, None)[0]:
            try:
                combinations.append((overrides, self._composed(list(overrides))))
            except OmegaConfBaseException as error:
                raise CompactHydraException(f"{' '.join(overrides)}: {error}") from error
        try:
            jobs = planning.plan(combinations, self.max_members)
        except ValueError as error:
            raise CompactHydraException(str(error)) from error
        log.info(planning.describe(jobs))
        directory = Path(self.config.hydra.sweep.dir)
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        returns = self.launcher.launch([job.overrides for job in jobs], initial_job_idx=0)
        for job in returns:
            _ = job.return_value  # raises what ended a failed job: else the sweep would end silently, with code 0
        return [returns]

    def _composed(self, overrides: list[str]) -> dict[str, Any]:
        """The configuration that a job with these overrides would have, resolved, as plain data."""
        assert self.hydra_context is not None and self.config is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        HydraConfig.instance().set_config(composed)  # for `${hydra:...}`
        with open_dict(composed):
            composed.paths.run_dir = ""  # every job has its own; it is no setting
            del composed["hydra"]
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}
