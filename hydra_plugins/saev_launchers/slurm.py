"""The jobs of a sweep as one Slurm array, by submitit. Hydra imports this at each start: only light imports at the top."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from hydra_plugins.saev_launchers.waiting import Submitted, commands, wait
from saev.runs import slurm

log = logging.getLogger(__name__)


class SlurmLauncher(BaseSubmititLauncher):
    """Submits the jobs and waits for them; one that dies is reported as failed, the others continue.

    Args:
        poll_s: seconds between calls of squeue.
        lost_after_s: seconds to wait for the result of a job that is no longer in the queue.
        params: the other keys of conf/hydra/launcher/slurm.yaml.
    """

    def __init__(self, poll_s: float, lost_after_s: float, **params: Any):
        super().__init__(**params)
        self.poll_s, self.lost_after_s = poll_s, lost_after_s

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return wait(self.submit(job_overrides, initial_job_idx), self.poll_s, self.lost_after_s)

    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Submitted]:
        """Submit the jobs and record their Slurm ids; CompactHydraException where Slurm refuses them."""
        assert self.config is not None
        if shutil.which("sbatch") is None or shutil.which("squeue") is None:
            raise CompactHydraException(
                "error: hydra/launcher=slurm: sbatch and squeue are not on PATH; run this on the "
                "cluster's login node, or the jobs on this machine: hydra/launcher=joblib or hydra/launcher=submitit_local."
            )
        directory = Path(str(self.config.hydra.sweep.dir)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        calls = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for overrides, number in zip(job_overrides, numbers, strict=True)
        ]
        try:
            jobs = self._executor().map_array(self, *zip(*calls, strict=True))
        except Exception as error:  # submitit reports errors of sbatch in several types
            raise CompactHydraException(
                f"error: hydra/launcher=slurm: nothing was submitted: {error}\nThe keys are those of "
                "conf/hydra/launcher/slurm.yaml, e.g. hydra.launcher.partition=gpu hydra.launcher.account=mine."
            ) from error
        submitted = []
        for (overrides, _, number, *_), job in zip(calls, jobs, strict=True):
            paths = job.task(0).paths
            folder = self._folder(overrides, number)
            submitted.append(Submitted(directory, folder, overrides, job.job_id, paths.result_pickle, paths.stderr))
            log.info("Slurm job %s: %s (%s)", job.job_id, folder, " ".join(filter_overrides(overrides)))
        slurm.record_jobs(directory, {job.folder: job.number for job in submitted})
        return submitted

    def _executor(self) -> Any:
        import submitit

        common = BaseQueueConf.__dataclass_fields__  # submitit's keys for any cluster; those of Slurm get a prefix
        params = {key if key in common else f"slurm_{key}": value for key, value in self.params.items()}
        folder, retries = params.pop("submitit_folder"), params.pop("slurm_max_num_timeout")
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=retries)
        # else the other processes of a job would wait for one that died until the time limit
        executor.update_parameters(**params, slurm_srun_args=["--kill-on-bad-exit=1"])
        return executor

    def _folder(self, overrides: list[str], number: int) -> str:
        """The job's folder below the sweep's."""
        assert self.config is not None and self.hydra_context is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        composed.hydra.job.num = number
        return str(composed.hydra.sweep.subdir)


class DetachedSlurmLauncher(SlurmLauncher):
    """Submits the jobs and returns their status as UNKNOWN; `saev status` reports it later."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = self.submit(job_overrides, initial_job_idx)
        log.info("submitted; not waiting for them.\n%s", commands(jobs))
        return [job.returned() for job in jobs]
