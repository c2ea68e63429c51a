"""saev explore: all runs below some directories, their latents and images in the browser.

saev explore [DIRECTORY ...] [images=folder images.root=/path/to/photos]      default: the folder of all outputs
"""

import argparse
import contextlib
import importlib.util
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saev.progress import print_line, terminal

EPILOG = """\
images=... images.root=...: the images that were recorded, as for `saev record`; without them heat maps have no photos.

The address holds a random token and is reached from this computer alone; `ssh -L`, printed with it, forwards it to another.
"""


def run(arguments: Sequence[str]) -> int:
    """Prepare the codes of a dictionary, then serve the explorer until Ctrl-C; 0."""
    args = parse(arguments)
    if missing := [name for name in ("marimo", "altair", "anywidget") if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"saev explore needs {', '.join(missing)}: `uv sync` in the clone, or pip install 'saev-lightning[explore]'."
        )
    outputs = Path(os.environ.get("SAEV_OUTPUTS", "outputs"))
    directories = tuple(args.directories or [outputs])
    from saev.explore.opening import Session, check_directories, prepare

    check_directories(directories)
    session = Session(
        directories=tuple(path.absolute() for path in directories),
        codes=(args.codes or outputs / "codes").absolute(),
        activations=(args.activations or outputs / "activations").absolute(),
        images=images_of(args.images),
        dictionary=None if args.dictionary is None else str(args.dictionary.absolute()),
        device=args.device,
    )
    runs = session.runs()
    first = session.first(runs)
    if first not in runs["path"].to_list():
        raise ValueError(f"--dictionary {first}: must be below {', '.join(map(str, directories))}.")
    console = terminal()
    print_line(console, f"{len(runs)} dictionaries; opening {first}")
    codes = prepare(first, session)
    if session.images is not None:
        session.images.indices(codes.images["path"].to_list(), codes.manifest.dataset["name"])
    from saev.explore.server import serving

    signal.signal(signal.SIGTERM, lambda *_: exit_on_signal())
    with serving(session, args.port) as server:
        print_line(console, f"address: {server.address}")
        print_line(console, f"from another computer: {server.tunnel}, then the same address there")
        print_line(console, "Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            return server.process.wait()
    return 0


def exit_on_signal() -> None:
    """End as after SIGTERM, through the block that stops the server."""
    raise SystemExit(143)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; `images` are the arguments that name the images."""
    parser = argparse.ArgumentParser(
        "saev explore", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("directories", nargs="*", help="folders of runs, sweeps and results; default: the folder of all outputs")
    add("--dictionary", type=Path, metavar="PATH", help="the dictionary to open first; default: a Pareto-optimal one")
    add("--codes", type=Path, metavar="PATH", help="the folder of codes (outputs/codes)")
    add("--activations", type=Path, metavar="PATH", help="the folder of recordings (outputs/activations)")
    add("--port", type=int, default=0, help="default: a free one")
    add("--device", default="auto", help="where missing codes are computed: auto, cpu, cuda, cuda:1")
    args = parser.parse_args(list(arguments))
    args.images = [one for one in args.directories if one.partition("=")[0].split(".")[0] == "images" and "=" in one]
    args.directories = [Path(one) for one in args.directories if one not in args.images]
    return args


def images_of(overrides: Sequence[str]) -> Any:
    """The image set that the arguments name, as for `saev record`; None without them. ValueError where it is missing."""
    if not overrides:
        return None
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    from saev.config.command_line import CONF, quote_values

    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            images = instantiate(compose("show", quote_values(list(overrides))).images)
    except HydraException as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error
    images.check()
    return images
