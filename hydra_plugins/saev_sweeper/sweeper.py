"""`-m` groups combinations into banks that share the pass over the data. A shell around saev.config and saev.runs.

    combinations --compose--> planning.plan --validate, split--> jobs --launcher--> their directories --> results of the sweep

Combinations that differ only in the settings of a single SAE become one job that trains them as a bank; the configured launcher
runs the jobs. `hydra/sweeper=basic` is Hydra's own behaviour.
"""

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


class SharedPassSweeper(Sweeper):
    """Runs the combinations of a sweep, grouped into banks.

    Args:
        max_members: largest bank; a larger group becomes several jobs.
        memory_gib: memory for a bank; a group estimated at more becomes several jobs. None: the memory of this machine, if
            the jobs run here.
        check: validate every job before the first is launched.
        rerun: train again what an earlier sweep of the same configurations has finished.
        resume: continue the sweep in hydra.sweep.dir as it was planned; set by `resume_sweep=`.
        params: swept parameters of the configuration (hydra.sweeper.params).
    """

    config: DictConfig
    hydra_context: HydraContext
    launcher: Any

    def __init__(
        self,
        max_members: int = 32,
        memory_gib: float | None = None,
        check: bool = True,
        rerun: bool = False,
        resume: bool = False,
        params: Any = None,
    ):
        self.max_members, self.memory_gib, self.check = max_members, memory_gib, check
        self.rerun, self.resume, self.params = rerun, resume, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Plan the sweep or find its plan, launch the jobs to do, and summarise the results."""
        from saev.locks import exclusive
        from saev.runs import ledger

        with as_messages(), contextlib.ExitStack() as held:
            directory, sweep = self._plan(arguments)
            busy = f"hydra.sweep.dir={directory}: another process launches this sweep or waits for it; see saev status."
            held.enter_context(exclusive(directory / ".sweep.lock", busy))
            states = ledger.job_states(directory, sweep.jobs)
            if any(of.state != "not started" for of in states.values()):
                log.info("resuming the sweep in %s", directory)
                sweep, states = self._split_again(directory, sweep, states)
            if not (directory / ledger.FILE).is_file():
                OmegaConf.save(self.config, directory / "multirun.yaml")  # the command, for resume_sweep=
            sweep.save(directory)
            for line in ledger.skipped(states):
                log.info(line)
            lock = held.pop_all()
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.sweep.dir = str(directory)
        with lock:
            return self._launch(directory, sweep, ledger.pending(states))

    def _plan(self, arguments: list[str]) -> tuple[Path, Any]:
        """The sweep's directory and its jobs: those planned there earlier, or new ones."""
        from saev.config.sweep_directory import sweep_directory
        from saev.runs import ledger, planning

        if self.resume:
            directory = Path(self.config.hydra.sweep.dir)
            sweep = ledger.Sweep.load(directory)
        else:
            combinations = self._combinations(arguments)
            fingerprint = ledger.fingerprint([config for _, config in combinations])
            directory, earlier = sweep_directory(self.config.hydra, fingerprint, self.rerun)
            sweep = earlier or ledger.Sweep(fingerprint, self._jobs(combinations), self.config.hydra.job.name)
        log.info(planning.describe(list(sweep.jobs.values())))
        return directory, sweep

    def _split_again(self, directory: Path, sweep: Any, states: Any) -> tuple[Any, Any]:
        """The sweep with its pending jobs that have no checkpoint split by the present limits."""
        from saev.runs import ledger

        jobs: dict[str, Any] = {}
        for folder, job in sweep.jobs.items():
            fresh = folder in ledger.pending(states) and not (directory / folder / ledger.CHECKPOINT).is_file()
            parts = job.parts(self._split(job)) if fresh else [job]
            jobs |= {folder: job} if len(parts) == 1 else {f"{folder}-{i}": part for i, part in enumerate(parts)}
        sweep = ledger.Sweep(sweep.fingerprint, jobs, sweep.verb)
        return sweep, ledger.job_states(directory, jobs)

    def _launch(self, directory: Path, sweep: Any, pending: list[str]) -> Any:
        """Launch the jobs of these folders; summarise the sweep, also when launching fails."""
        from saev.config.resume import quoted
        from saev.runs.sweep_summary import summarise

        sweep_dir = quoted("hydra.sweep.dir", directory)
        commands = [[*sweep.jobs[f].overrides, sweep_dir, quoted("hydra.sweep.subdir", Path(f))] for f in pending]
        errors: dict[str, str] = {}
        try:
            returns = self.launcher.launch(commands, initial_job_idx=0) if commands else []
            for folder, job in zip(pending, returns, strict=True):
                if job.status == JobStatus.FAILED:
                    errors[folder] = str(job._return_value)
        finally:
            summarise(directory, sweep, errors, table=len(sweep.jobs) > 1 or not commands)
        if errors:
            raise CompactHydraException(
                f"error: {len(errors)} of {len(sweep.jobs)} jobs failed: {', '.join(errors)}. The same command, or "
                f"saev {sweep.verb} resume_sweep={directory}, runs them again."
            )
        return [returns]

    def _combinations(self, arguments: list[str]) -> list[tuple[list[str], dict[str, Any]]]:
        """(overrides, composed configuration) of every combination."""
        from saev.config.composing import Composer

        parser, compose = (
            OverridesParser.create(config_loader=self.hydra_context.config_loader),
            Composer(self._compose),
        )
        values: dict[str, list[str]] = {}  # a repeated key counts once, with its last value
        for override in parser.parse_overrides([*(f"{k}={v}" for k, v in self.params.items()), *arguments]):
            key, swept = override.get_key_element(), override.is_sweep_override()
            if swept and not override.is_discrete_sweep():
                raise ValueError(f"{override.input_line}: a sweep needs a list of values, e.g. {key}=1,2.")
            strings = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
            values[key] = [f"{key}={value}" for value in strings]
        combinations = []
        for overrides in map(list, itertools.product(*values.values())):
            with as_messages(" ".join(overrides)):
                composed = compose(overrides)
                HydraConfig.instance().set_config(composed)  # for `${hydra:...}`
                with open_dict(composed):
                    composed.paths.run_dir = ""  # differs per job and is no setting
                    del composed["hydra"]
                plain = OmegaConf.to_container(composed, resolve=True)
                assert isinstance(plain, dict)
                combinations.append((overrides, {str(key): value for key, value in plain.items()}))
        if not combinations:
            raise ValueError(f"{' '.join(arguments)}: no combinations, because a range or glob(...) matches nothing.")
        return combinations

    def _compose(self, overrides: list[str]) -> Any:
        """The configuration of a job with these overrides."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        HydraConfig.instance().set_config(composed)  # for `${hydra:...}`, and for code that reads the job's overrides
        return composed

    def _jobs(self, combinations: list[tuple[list[str], dict[str, Any]]]) -> dict[str, Any]:
        """The jobs by folder: groups of combinations, split where they are too large."""
        from saev.config.composing import Composer
        from saev.config.unused import effective
        from saev.runs import planning

        groups, jobs = effective(planning.plan(combinations), Composer(self._compose)), []
        for job, label in zip(groups, planning.labels(groups), strict=True):
            with as_messages(label):
                parts = job.parts(self._split(job))
                for part in parts if len(parts) > 1 and self.check else ():
                    self._member_sizes(part)  # fewer members may be too few for several processes
                jobs += parts
        return dict(zip(planning.folders(jobs), jobs, strict=True))

    def _split(self, job: Any) -> list[int]:
        """The number of members of each part of a group; raises an error that would stop the job."""
        from saev.runs import planning

        if not self.check:
            zeros = [0] * len(job.variants)
            return planning.split(zeros, zeros, self.max_members)
        from saev.config import preflight

        cfg, sizes = self._member_sizes(job)
        budget = math.inf
        if self.memory_gib is not None:
            budget = self.memory_gib * preflight.GIB
        elif self._local:
            budget = preflight.memory_here(cfg) / self._concurrent_jobs
        fixed, passing = zip(*sizes, strict=True)
        return planning.split(fixed, passing, self.max_members, budget)

    def _member_sizes(self, job: Any) -> tuple[Any, Any]:
        """The job's configuration, and the memory of each member; raises an error that would stop the job."""
        from saev.config import preflight

        cfg = self._compose(job.overrides)
        return cfg, preflight.member_sizes(cfg.hydra.job.name, cfg, self._local)

    @property
    def _concurrent_jobs(self) -> int:
        """How many jobs share the memory of this machine."""
        n_jobs = OmegaConf.select(self.config, "hydra.launcher.n_jobs") or 1
        return n_jobs if n_jobs > 0 else os.cpu_count() or 1

    @property
    def _local(self) -> bool:
        """Whether jobs run on this machine."""
        return "slurm" not in type(self.launcher).__name__.lower()


@contextlib.contextmanager
def as_messages(prefix: str = "") -> Iterator[None]:
    """Turn user errors into Hydra's message without a traceback, with `prefix` in front."""
    try:
        yield
    except (OmegaConfBaseException, ValueError) as error:
        where = f"{prefix}: " if prefix else ""
        raise CompactHydraException(f"error: nothing was launched: {where}{error}") from error
