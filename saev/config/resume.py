"""ckpt_path=last, resume_sweep=last: resume an unfinished run or sweep in its directory, with its saved overrides."""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from saev.locks import is_locked
from saev.runs import ledger
from saev.runs.ledger import CHECKPOINT, LOCK, RESULTS
from saev.runs.outputs import runs_root
from saev.runs.planning import is_per_sae
from saev.runs.quoting import quote

SWEEPING = ("train", "fit")  # verbs whose members share a pass over the data
MEMBERS = {"train": "SAEs", "fit": "baselines"}


def with_run_dir(verb: str, overrides: Sequence[str]) -> list[str]:
    """The overrides, with those of the run that `ckpt_path` resumes in front, and its directory as this run's.

    `ckpt_path=last`: the newest unfinished run of the verb whose lock is free; `ckpt_path=<run directory>`: that run. Its
    overrides come from its .hydra folder; the new ones must not change its members. `ckpt_path=<file>` starts a new training run
    from that checkpoint.
    """
    chosen = [
        override.removeprefix("ckpt_path=").strip("'\"") for override in overrides if override.startswith("ckpt_path=")
    ]
    if verb not in SWEEPING or not chosen or chosen[-1] in ("", "null"):
        return list(overrides)
    others = [override for override in overrides if not override.startswith("ckpt_path=")]
    path = newest_unfinished(verb) if chosen[-1] == "last" else Path(chosen[-1])
    if path.is_file():
        if verb == "fit":
            raise ValueError(f"ckpt_path={path}: a fit resumes in its directory: give the run's directory.")
        return [*others, quoted("ckpt_path", path)]
    if not (path / CHECKPOINT).is_file():
        state = f"{CHECKPOINT} is missing there" if path.is_dir() else "there is no such file or directory"
        if (path / RESULTS).is_file():
            state = "that run has finished, and only keep_checkpoint=true keeps a finished run's checkpoint"
        raise ValueError(
            f"ckpt_path={path}: {state}; give a run's directory or a checkpoint, or start without ckpt_path."
        )
    if is_locked(path / LOCK):
        raise ValueError(f"ckpt_path={path}: another process is working in this run; wait for it, or end it first.")
    saved = saved_overrides(path)
    if changed := [override for override in others if is_per_sae(override) and override not in saved]:
        raise ValueError(
            f"ckpt_path={path} resumes the {MEMBERS[verb]} of that run, without {', '.join(changed)}: leave that out, or start a "
            "new run without ckpt_path."
        )
    return [*saved, *others, quoted("ckpt_path", path / CHECKPOINT), quoted("hydra.run.dir", path)]


def quoted(key: str, path: Path) -> str:
    """An override whose value Hydra takes literally."""
    return f"{key}={quote(str(path))}"


def newest_unfinished(verb: str) -> Path:
    """The directory of the run with the newest checkpoint among those without results whose lock is free."""
    root = runs_root(verb)
    runs = [path.parents[1] for path in root.glob(f"**/{CHECKPOINT}")]
    candidates = [run for run in runs if not (run / RESULTS).is_file() and not is_locked(run / LOCK)]
    started = {path.parents[1]: path.stat().st_mtime for path in root.glob("**/.hydra/overrides.yaml")}
    if not candidates:
        raise ValueError(
            f"ckpt_path=last: no interrupted run with a checkpoint under {root}; give its directory (ckpt_path=<run>), "
            "or start without ckpt_path."
        )
    newest = max(candidates, key=lambda run: (run / CHECKPOINT).stat().st_mtime)
    print(f"ckpt_path=last: resuming {newest}", file=sys.stderr)
    for run in sorted(run for run, time in started.items() if time > started.get(newest, 0)):
        state = "no checkpoint" if not (run / CHECKPOINT).is_file() else "an older checkpoint"
        reason = "finished" if (run / RESULTS).is_file() else "running" if is_locked(run / LOCK) else state
        print(f"  passed over, although started later: {run} ({reason})", file=sys.stderr)
    return newest


def saved_overrides(run: Path) -> list[str]:
    """The overrides with which a run was started."""
    path = run / ".hydra" / "overrides.yaml"
    overrides = [str(override) for override in OmegaConf.load(path)] if path.is_file() else []
    return [override for override in overrides if not override.startswith("ckpt_path=")]


def with_sweep_dir(verb: str, flags: Sequence[str], overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """(flags, overrides), replaced by the command of the sweep that `resume_sweep` resumes.

    `resume_sweep=<sweep directory>` runs that sweep's command again in its directory, where finished, running and queued jobs
    are skipped; `last`: the newest sweep with a job to launch. Overrides of Hydra's own keys are added (`hydra/launcher=basic` runs a
    cluster's sweep on this machine); ValueError for others, because the plan is fixed.
    """
    chosen = [override.removeprefix("resume_sweep=").strip("'\"") for override in overrides if is_resume(override)]
    if verb not in SWEEPING or not chosen:
        return list(flags), list(overrides)
    path = newest_pending(verb) if chosen[-1] == "last" else Path(chosen[-1])
    if (planned := ledger.Sweep.load(path).verb) != verb:
        raise ValueError(f"resume_sweep={path}: it is a sweep of `saev {planned}`: saev {planned} resume_sweep={path}.")
    located_by = ("resume_sweep=", "paths.outputs=") if chosen[-1] == "last" else ("resume_sweep=",)
    others = [override for override in overrides if not override.lstrip("+").startswith(located_by)]
    if refused := [override for override in others if not override.lstrip("+~").startswith("hydra")]:
        raise ValueError(
            f"resume_sweep keeps the settings of the sweep, without {', '.join(refused)}: start another sweep."
        )
    launcher = any(override.lstrip("+").startswith("hydra/launcher=") for override in others)
    stale = (
        "hydra.sweep.dir=",
        "hydra.mode=",
        "hydra.sweeper.rerun=",
        *(("hydra/launcher=", "hydra.launcher.") if launcher else ()),
    )
    saved = OmegaConf.load(path / "multirun.yaml").hydra.overrides
    command = [override for override in (*saved.task, *saved.hydra) if not override.lstrip("+").startswith(stale)]
    multirun = [] if {"-m", "--multirun"} & {*flags} else ["-m"]
    return [*multirun, *flags], [
        *command,
        *others,
        "hydra.sweeper.resume=true",
        quoted("hydra.sweep.dir", path.absolute()),
    ]


def is_resume(override: str) -> bool:
    """Whether the override resumes a sweep."""
    return override.startswith("resume_sweep=")


def newest_pending(verb: str) -> Path:
    """The newest sweep of a verb that has a job to launch."""
    for path in ledger.sweeps(runs_root(verb)):
        if ledger.pending(ledger.job_states(path, ledger.Sweep.load(path).jobs)):
            return path
    raise ValueError(
        f"resume_sweep=last: no sweep below {runs_root(verb)} has a job left to launch; give its directory (resume_sweep=<sweep>)."
    )
