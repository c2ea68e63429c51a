"""saev explore: all runs below some directories, their latents and images in the browser.

saev explore [DIRECTORY ...] [images=folder images.root=/path/to/photos]      default: the folder of all outputs
saev explore --dictionary PATH --export page.html [latents=3,17,100-120] [images=0-63]      one page, without a server
"""

import argparse
import contextlib
import importlib.util
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saev.progress import print_line, terminal

NUMBERS = re.compile(r"latents=.*|images=\d.*")  # of --export; other images= name the image set
EPILOG = """\
images=... images.root=...: the images that were recorded, as for `saev record`; without them heat maps have no photos.
vit=...: the backbone that was recorded, as for `saev record` (also vit.img_size=, vit.random_weights=): for photos that were not recorded.
latents=3,17,100-120 images=0-63: what --export writes; without them latents with a name, class, trait or contrast, and 64 images.

The address holds a random token and is reached from this computer alone; `ssh -L`, printed with it, forwards it to another.
"""


def run(arguments: Sequence[str]) -> int:
    """Prepare the codes of a dictionary, then serve the explorer until Ctrl-C; 0."""
    args = parse(arguments)
    needed = () if args.export else ("marimo", "altair", "anywidget")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"saev explore needs {', '.join(missing)}: `uv sync` in the clone, or pip install 'saev-lightning[explore]'."
        )
    outputs = Path(os.environ.get("SAEV_OUTPUTS", "outputs"))
    directories = tuple(args.directories or [outputs])
    from saev.explore.opening import Session, check_directories, prepare
    from saev.explore.upload import Reader

    check_directories(directories)
    session = Session(
        directories=tuple(path.absolute() for path in directories),
        codes=(args.codes or outputs / "codes").absolute(),
        activations=(args.activations or outputs / "activations").absolute(),
        images=configured(args.images, "images"),
        reader=None if (vit := configured(args.vit, "vit")) is None else Reader(vit, args.device),
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
    if args.export:
        from saev.runs.tables import print_files

        print_files({"page": export(first, session, args)})
        return 0
    from saev.explore.server import serving

    signal.signal(signal.SIGTERM, lambda *_: exit_on_signal())
    with serving(session, args.port) as server:
        print_line(console, f"address: {server.address}")
        print_line(console, f"from another computer: {server.tunnel}, then the same address there")
        print_line(console, "Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            return server.process.wait()
    return 0


def export(path: str, session: Any, args: argparse.Namespace) -> Path:
    """Write the page of the chosen latents and images of a dictionary; its path. ValueError for numbers that there are not."""
    from saev.explore.export import default_images, default_latents, numbers, write_page
    from saev.explore.opening import open_dictionary

    opened = open_dictionary(path, session)
    assert opened is not None, "its codes are prepared"
    latents = (
        numbers("latents", args.latents, range(opened.codes.n_latents))
        if args.latents
        else default_latents(opened.latents)
    )
    images = numbers("images", args.shown, opened.examples.tolist()) if args.shown else default_images(opened)
    manifest, credits = opened.codes.manifest, session.images.credits() if session.images is not None else ""
    title = f"{opened.one.name}, layer {manifest.layer} of {manifest.dataset['name']}"
    return write_page(opened, args.export, latents, images, title, credits)


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
    add("--export", type=Path, metavar="PAGE.html", help="write chosen latents and images as one page, and end")
    args = parser.parse_intermixed_args(list(arguments))
    named = [(one, one.partition("=")[0].split(".")[0]) for one in args.directories if "=" in one]
    named = [(one, key) for one, key in named if key in ("images", "latents", "vit")]
    args.directories = [Path(one) for one in args.directories if one not in dict(named)]
    chosen = {key: one.partition("=")[2] for one, key in named if NUMBERS.fullmatch(one)}
    args.latents, args.shown = chosen.get("latents"), chosen.get("images")
    args.images, args.vit = (
        [one for one, k in named if k == key and not NUMBERS.fullmatch(one)] for key in ("images", "vit")
    )
    if args.export and (idle := [*(["--port"] if args.port else []), *args.vit]):
        raise ValueError(f"{', '.join(idle)}: no effect with --export, which starts no server: leave it out.")
    if chosen and not args.export:
        raise ValueError(
            f"{next(iter(chosen))}={next(iter(chosen.values()))} chooses what --export writes: add --export page.html."
        )
    return args


def configured(overrides: Sequence[str], key: str) -> Any:
    """The image set or backbone that the arguments name, as for `saev record`; None without them. ValueError where it is missing."""
    if not overrides:
        return None
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    from saev.config.command_line import CONF, quote_values

    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            source = instantiate(compose("evaluate", quote_values(list(overrides)))[key])
    except HydraException as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error
    source.check()
    return source
