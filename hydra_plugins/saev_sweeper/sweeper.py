"""`-m` means: share the pass over the data. A shell around saev.sweep and saev.stages.

    combinations --compose--> planning.plan --examine, split--> jobs --launcher--> their folders --> results of the sweep

Combinations that differ in the settings of single SAEs alone become one job that trains them as a bank, and the jobs go to
whatever launcher is configured. `hydra/sweeper=basic` is stock behaviour.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger(__name__)


class SharedPassSweeper(BasicSweeper):
    """Hydra's basic sweeper with its combinations grouped into banks.

    Args:
        max_members: largest bank; a larger group becomes several jobs.
        memory_gib: memory for a bank; a group that is estimated at more becomes several jobs. None: this machine's, where
            the jobs run here.
        check: look for whatever would stop a job before anything is launched.
        rerun: train anew what an earlier sweep of the same configurations has finished.
        resume: go on with the sweep in hydra.sweep.dir as it was planned; set by `resume_sweep=`.
        params: swept parameters of the configuration (hydra.sweeper.params), as in the basic sweeper.
    """

    def __init__(
        self,
        max_members: int = 32,
        memory_gib: float | None = None,
        check: bool = True,
        rerun: bool = False,
        resume: bool = False,
        params: Any = None,
    ):
        super().__init__(max_batch_size=None, params=params)
        self.max_members, self.memory_gib, self.check = max_members, memory_gib, check
        self.rerun, self.resume = rerun, resume

    def sweep(self, arguments: list[str]) -> Any:
        from saev.locks import exclusive
        from saev.runs import ledger

        assert self.config is not None and self.launcher is not None
        with as_messages(), contextlib.ExitStack() as held:
            directory, sweep = self._planned(arguments)
            busy = f"hydra.sweep.dir={directory}: another process launches this sweep or waits for it; saev status tells more."
            held.enter_context(exclusive(directory / ".sweep.lock", busy))
            standings = ledger.standings(directory, sweep.jobs)
            if any(found.state != "not started" for found in standings.values()):
                log.info("going on in %s", directory)
                sweep, standings = self._split_again(directory, sweep, standings)
            self._save(directory, sweep)
            for line in ledger.left_alone(standings):
                log.info(line)
            lock = held.pop_all()
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.sweep.dir = str(directory)
        with lock:
            return self._launch(directory, sweep, ledger.pending(standings))

    def _planned(self, arguments: list[str]) -> tuple[Path, Any]:
        """The sweep's directory and its jobs: as they were planned there, or anew."""
        from saev.config.sweep_place import place
        from saev.runs import ledger, planning

        assert self.config is not None
        if self.resume:
            directory = Path(self.config.hydra.sweep.dir)
            sweep = ledger.Sweep.load(directory)
        else:
            combinations = self._combinations(arguments)
            fingerprint = ledger.fingerprint([config for _, config in combinations])
            directory, earlier = place(self.config.hydra, fingerprint, self.rerun)
            sweep = earlier or ledger.Sweep(fingerprint, self._jobs(combinations), self.config.hydra.job.name)
        log.info(planning.describe(list(sweep.jobs.values())))
        return directory, sweep

    def _save(self, directory: Path, sweep: Any) -> None:
        """Write down the plan, and the command of a new sweep."""
        from saev.runs import ledger

        if not (directory / ledger.FILE).is_file():
            OmegaConf.save(self.config, directory / "multirun.yaml")
        sweep.save(directory)

    def _split_again(self, directory: Path, sweep: Any, standings: Any) -> tuple[Any, Any]:
        """The sweep with what has to be launched, and has no checkpoint to go on from, split as limits say now."""
        from saev.runs import ledger

        jobs: dict[str, Any] = {}
        for folder, job in sweep.jobs.items():
            fresh = folder in ledger.pending(standings) and not (directory / folder / ledger.CHECKPOINT).is_file()
            parts = job.parts(self._split(job)) if fresh else [job]
            jobs |= {folder: job} if len(parts) == 1 else {f"{folder}-{i}": part for i, part in enumerate(parts)}
        sweep = ledger.Sweep(sweep.fingerprint, jobs, sweep.verb)
        return sweep, ledger.standings(directory, jobs)

    def _launch(self, directory: Path, sweep: Any, pending: list[str]) -> Any:
        """Launch the jobs in the given folders, and sum up the sweep however that ends."""
        from saev.config.resume import quoted
        from saev.runs.sweep_summary import conclude

        where = quoted("hydra.sweep.dir", directory)
        commands = [[*sweep.jobs[f].overrides, where, quoted("hydra.sweep.subdir", Path(f))] for f in pending]
        errors: dict[str, str] = {}
        try:
            returns = self.launcher.launch(commands, initial_job_idx=0) if commands else []  # type: ignore[union-attr]
            for folder, job in zip(pending, returns, strict=True):
                if job.status == JobStatus.FAILED:
                    errors[folder] = str(job._return_value)
        finally:
            conclude(directory, sweep, errors, table=len(sweep.jobs) > 1 or not commands)
        if errors:
            raise CompactHydraException(
                f"error: {len(errors)} of {len(sweep.jobs)} jobs failed: {', '.join(errors)}. The same command, or "
                f"saev {sweep.verb} resume_sweep={directory}, runs them again."
            )
        return [returns]

    def _combinations(self, arguments: list[str]) -> list[tuple[list[str], dict[str, Any]]]:
        """(overrides, composed configuration) of every combination asked for."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        combinations = []
        for overrides in self.split_arguments(parsed, None)[0]:
            with as_messages(" ".join(overrides)):
                composed = self._composed(list(overrides))
                with open_dict(composed):
                    composed.paths.run_dir = ""  # every job has its own; it is no setting
                    del composed["hydra"]
                plain = OmegaConf.to_container(composed, resolve=True)
                assert isinstance(plain, dict)
                combinations.append((list(overrides), {str(key): value for key, value in plain.items()}))
        if not combinations:
            raise ValueError(
                f"{' '.join(arguments)}: there is no combination, as a range or glob(...) matches nothing."
            )
        return combinations

    def _composed(self, overrides: list[str]) -> Any:
        """The configuration that a job with these overrides would have."""
        assert self.hydra_context is not None and self.config is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        HydraConfig.instance().set_config(composed)  # for `${hydra:...}`, and for what asks which overrides there are
        return composed

    def _jobs(self, combinations: list[tuple[list[str], dict[str, Any]]]) -> dict[str, Any]:
        """The jobs by folder: groups of combinations, split where they are too large."""
        from saev.runs import planning

        groups, jobs = planning.plan(combinations), []
        for job, label in zip(groups, planning.labels(groups), strict=True):
            with as_messages(label):
                parts = job.parts(self._split(job))
                for part in parts if len(parts) > 1 and self.check else ():
                    self._examined(part)  # fewer members may be too few for several processes
                jobs += parts
        return dict(zip(planning.folders(jobs), jobs, strict=True))

    def _split(self, job: Any) -> list[int]:
        """How many members each part of a group gets; raises what would stop the job."""
        from saev.runs import planning

        none = [0] * len(job.variants)
        if not self.check:
            return planning.split(none, none, self.max_members)
        from saev.config import preflight

        cfg, members = self._examined(job)
        budget = math.inf
        if self.memory_gib is not None:
            budget = self.memory_gib * preflight.GIB
        elif self._here:
            budget = preflight.memory_here(cfg) / self._at_once
        fixed, passing = zip(*members, strict=True)
        return planning.split(fixed, passing, self.max_members, budget)

    def _examined(self, job: Any) -> tuple[Any, Any]:
        """The job's configuration, and the size of each member; raises what would stop it."""
        from saev.config import preflight

        cfg = self._composed(job.overrides)
        return cfg, preflight.examine(cfg.hydra.job.name, cfg, self._here)

    @property
    def _at_once(self) -> int:
        """How many jobs share this machine's memory."""
        assert self.config is not None
        n_jobs = OmegaConf.select(self.config, "hydra.launcher.n_jobs") or 1
        return n_jobs if n_jobs > 0 else os.cpu_count() or 1

    @property
    def _here(self) -> bool:
        """Whether jobs run on this machine."""
        return "slurm" not in type(self.launcher).__name__.lower()


@contextlib.contextmanager
def as_messages(prefix: str = "") -> Iterator[None]:
    """Turn what is the user's to mend into Hydra's message without a traceback, with `prefix` in front."""
    try:
        yield
    except (OmegaConfBaseException, ValueError) as error:
        where = f"{prefix}: " if prefix else ""
        raise CompactHydraException(f"error: nothing was launched: {where}{error}") from error
