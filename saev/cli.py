"""The command line: verbs, and flags in any position. No tensors here, so help and completion stay fast.

saev record images=... vit=...     saev train experiment=... -m k=16,32     saev evaluate RUN     saev doctor
"""

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from saev.config.command_line import CONF, directories_as_key, quote_values, split_flags, with_multirun, without_demo
from saev.config.streams import ignoring_broken_pipes

# In the order in which a study runs them.
STAGES = {
    "record": "images -> activations of a vision transformer, as tar shards",
    "train": "activations -> a bank of sparse autoencoders (records first where needed)",
    "fit": "activations -> baselines: k-means, PCA, random vectors, semi-NMF",
    "encode": "dictionaries, or runs given as arguments -> their sparse codes, and what each latent does",
    "evaluate": "dictionaries, or runs given as arguments -> a row of metrics each",
    "probe": "dictionaries and labelled activations -> which latent stands for which class",
    "traits": "dictionaries and traits of images -> how well single latents predict them, compared with baselines",
    "contrast": "dictionaries and groups of images -> which latents separate the groups, compared with baselines",
    "map": "dictionaries and taxa of images -> which latents stand for which taxa, and a heat map of both",
    "bench": "dictionaries -> a row each with every measure beside its null and its interval, and a page that compares them",
    "show": "dictionaries -> a page of the images behind latents: those asked for, or the best of probed classes",
}
# Verbs that take directories as plain arguments -> the key that lists them.
DIRECTORIES = dict.fromkeys(
    ("encode", "evaluate", "probe", "traits", "contrast", "map", "bench", "show"), "dictionaries"
)
TOOLS = {
    "explore": "all runs below outputs -> their latents and images in the browser, to filter and click through",
    "annotate": "name the latents of a dictionary; pages and tables show the names",
    "convert": "dictionaries and activations of other libraries <-> ours; each conversion is proven",
    "status": "the states of a sweep's jobs, and their results; default: the newest sweep or run",
    "doctor": "check the environment, and datasets given as arguments; print the remedy for each fault",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb; exits with 0, or with 1 and a message that names the remedy."""
    # Read by torch at its first allocation: pages of 2 MB instead of 4 KB make a step of large SAEs on a CPU a sixth faster
    # (docs/log/2026-11-25-step.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Threads of OpenMP that wait spin: beside other processes they would take the time of those that work.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with ignoring_broken_pipes():
        answer(list(sys.argv[1:] if arguments is None else arguments))


def answer(arguments: Sequence[str]) -> None:
    """Print the help, or run the verb, which is the first argument."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    verb, *rest = arguments
    if verb in ("-sc", "--shell-completion"):
        run_completion(rest[0] if rest else "")
        return
    if verb in TOOLS:
        run_tool(verb, rest)
    if verb not in STAGES:
        close = difflib.get_close_matches(verb, [*STAGES, *TOOLS], 1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        sys.exit(f"saev: there is no verb {verb!r}.{hint}\n\n{usage()}")
    if {"-h", "--help"} & {*rest}:
        from saev.config.help import help_text

        print(help_text(verb, STAGES[verb]))
        return
    hydra_stage(verb, rest)


def run_completion(action: str) -> None:
    """Print the script that installs tab completion, or the completions of the line that is being typed."""
    from saev.config.completion import complete

    try:
        complete(
            action, [*STAGES, *TOOLS], lambda verb: hydra_stage(verb, ["-sc", "query=bash"]) if verb in STAGES else None
        )
    except ValueError as error:
        sys.exit(f"error: {error}")


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
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode

    from saev.config import schema
    from saev.config.messages import check_added, message
    from saev.config.resume import with_run_dir, with_sweep_dir
    from saev.config.rollback import remove_refused, restored_on_error
    from saev.runs.outputs import check_writable, set_outputs

    if not (CONF / f"{verb}.yaml").is_file():
        sys.exit(
            f"saev {verb}: {CONF / verb}.yaml is missing. The stages run from a clone of the repository: `uv sync` there."
        )
    schema.register()

    traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"

    def task(cfg) -> object:
        hydra_config = HydraConfig.get()
        directory, single = Path(hydra_config.runtime.output_dir), hydra_config.mode != RunMode.MULTIRUN
        try:
            with full_errors(traceback):  # as the user has set it, for processes that the command starts
                return importlib.import_module(f"saev.stages.{verb}").run(cfg)
        except Exception as error:
            text = message(error, arguments, directory)
            if isinstance(error, ValueError) and single:
                remove_refused(directory)
            if text is None or traceback:
                raise
            if single:
                sys.exit(f"error: {text}")
            raise CompactHydraException(f"error: {text}") from error

    task.__module__, task.__qualname__, task.__name__ = __name__, verb, verb
    try:
        flags, overrides = split_flags([argument for argument in arguments if argument != "--explain"])
        if "--explain" in arguments:
            os.environ["SAEV_EXPLAIN"] = "1"  # read by saev.visuals.tables
        overrides = quote_values(overrides)
        check_added(overrides)
        set_outputs(overrides)
        overrides = directories_as_key(DIRECTORIES[verb], overrides) if verb in DIRECTORIES else overrides
        overrides = without_demo(overrides) if verb == "train" else overrides
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
        with restored_on_error(sys.argv[1:]), full_errors(True):
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=verb)(task)()
    except KeyboardInterrupt:  # the stage has printed how to resume
        sys.exit(130)
    except Exception as error:
        text = message(error, arguments)
        if text is None or traceback:
            raise
        sys.exit(f"error: {text}")


@contextlib.contextmanager
def full_errors(raised: bool) -> Iterator[None]:
    """Within it Hydra raises errors (`raised`), or prints them and exits."""
    before = os.environ.pop("HYDRA_FULL_ERROR", None)
    os.environ |= {"HYDRA_FULL_ERROR": "1"} if raised else {}
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR", None)
        os.environ |= {} if before is None else {"HYDRA_FULL_ERROR": before}
