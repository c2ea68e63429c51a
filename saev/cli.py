"""The command line: verbs, and flags in any position. No tensors here, so help and completion stay fast.

saev record images=... vit=...     saev train experiment=... -m k=16,32     saev evaluate RUN     saev doctor
"""

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from saev.config.streams import Tee, ignoring_broken_pipes

CONF = Path(__file__).resolve().parent.parent / "conf"

# In the order in which a study runs them.
STAGES = {
    "record": "images -> activations of a vision transformer, as tar shards",
    "train": "activations -> a bank of sparse autoencoders (records first where needed)",
    "fit": "activations -> baselines: k-means, PCA, random vectors, semi-NMF",
    "encode": "dictionaries, or runs given as arguments -> their sparse codes, and what each latent does",
    "evaluate": "dictionaries, or runs given as arguments -> a row of metrics each",
    "probe": "dictionaries and labelled activations -> which latent stands for which class",
    "show": "dictionaries -> a page of the images behind latents: those asked for, or the best of probed classes",
}
# Verbs that take directories as plain arguments -> the key that lists them.
DIRECTORIES = dict.fromkeys(("encode", "evaluate", "probe", "show"), "dictionaries")
TOOLS = {
    "convert": "dictionaries and activations of other libraries <-> ours; each conversion is proven",
    "status": "the states of a sweep's jobs, and their results; default: the newest sweep",
    "doctor": "check the environment, and datasets given as arguments; print the remedy for each fault",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exits with 0, or with 1 and a message that names the remedy."""
    # Read by torch at its first allocation: pages of 2 MB instead of 4 KB make a step of large SAEs on a CPU a sixth faster
    # (docs/log/2026-11-25-step.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with ignoring_broken_pipes():
        answer(list(sys.argv[1:] if arguments is None else arguments))


def answer(arguments: Sequence[str]) -> None:
    """Print the help, or run the verb, which is the first argument."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    verb, *rest = arguments
    if verb in TOOLS:
        run_tool(verb, rest)
    if verb not in STAGES:
        close = difflib.get_close_matches(verb, [*STAGES, *TOOLS], 1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        sys.exit(f"saev: there is no verb {verb!r}.{hint}\n\n{usage()}")
    hydra_stage(verb, rest)


def run_tool(verb: str, arguments: Sequence[str]) -> None:
    """Run saev.stages.<verb>.run, which parses its own arguments, and exit with its return value."""
    try:
        sys.exit(importlib.import_module(f"saev.stages.{verb}").run(arguments))
    except ValueError as error:  # user error: print the message, no traceback
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def usage() -> str:
    """The help text."""
    width = max(map(len, (*STAGES, *TOOLS)))
    lines = [f"  {number}. {verb:<{width}}  {text}" for number, (verb, text) in enumerate(STAGES.items(), 1)]
    tools = [f"     {verb:<{width}}  {text}" for verb, text in TOOLS.items()]
    return "\n".join(
        [
            "saev VERB [key=value ...] [flags]",
            "",
            "Stages, in order:",
            *lines,
            "",
            "Tools:",
            *tools,
            "",
            "`saev VERB --help` lists what can be set, `--cfg job` prints the configuration, `-m key=a,b` sweeps.",
        ]
    )


def hydra_stage(verb: str, arguments: Sequence[str]) -> None:
    """Run saev.stages.<verb>.run under Hydra with conf/<verb>.yaml."""
    import hydra
    from hydra.errors import CompactHydraException

    from saev.config import schema
    from saev.config.command_line import directories_as_key, split_flags, with_multirun
    from saev.config.resume import with_run_dir, with_sweep_dir
    from saev.config.rollback import restored_on_error
    from saev.runs.outputs import check_writable, set_outputs

    if not (CONF / f"{verb}.yaml").is_file():
        sys.exit(
            f"saev {verb}: {CONF / verb}.yaml is missing. The stages run from a clone of the repository: `uv sync` there."
        )
    schema.register()

    def task(cfg) -> object:
        try:
            return importlib.import_module(f"saev.stages.{verb}").run(cfg)
        except ValueError as error:  # user error: print the message, no traceback (HYDRA_FULL_ERROR=1 shows it)
            raise CompactHydraException(f"error: {error}") from error

    task.__module__, task.__qualname__, task.__name__ = __name__, verb, verb
    try:
        flags, overrides = split_flags(arguments)
        set_outputs(overrides)
        overrides = directories_as_key(DIRECTORIES[verb], overrides) if verb in DIRECTORIES else overrides
        flags, overrides = with_sweep_dir(verb, flags, overrides)
        flags = with_multirun(flags, overrides)
        if {"-m", "--multirun"} & {*flags} and any(override.startswith("ckpt_path=") for override in overrides):
            raise ValueError(
                "ckpt_path with -m or a launcher: resume one run at a time, here (ckpt_path=<run directory>), or a sweep "
                "(resume_sweep=<sweep directory>)."
            )
        sys.argv[1:] = flags + with_run_dir(verb, overrides)
        check_writable(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        with suggestions(), restored_on_error(sys.argv[1:]):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=verb)(task)()
    except KeyboardInterrupt:  # the stage has printed how to resume
        sys.exit(130)


@contextlib.contextmanager
def suggestions():
    """Add "did you mean" to Hydra's message about an unknown key."""
    stderr, copy = sys.stderr, io.StringIO()
    sys.stderr = Tee(stderr.write, copy.write, stderr)
    try:
        yield
    except SystemExit:
        if unknown := re.search(r"Could not override '([\w.]+)'", copy.getvalue()):
            stderr.write(suggestion(unknown[1]))
        raise
    finally:
        sys.stderr = stderr


def suggestion(key: str) -> str:
    """A line that names the keys closest to an unknown one, or nothing."""
    text = "\n".join(path.read_text() for path in CONF.rglob("*.yaml"))
    known = {*re.findall(r"^[\s-]*(\w+):", text, re.M)}  # groups stand in lists of defaults
    close = difflib.get_close_matches(key.split(".")[-1], sorted(known), 3, 0.6)
    return f"Did you mean {' or '.join(close)}?\n" if close else ""
