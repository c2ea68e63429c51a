"""saev convert: dictionaries and activations of other libraries into ours, and ours into SAELens' format.

saev convert PATH OUT       what PATH is, is found out; each conversion is proven before OUT appears
"""

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from saev.interop import KNOWN

EPILOG = f"""\
PATH may be:
{KNOWN}

A dictionary is compared with the original's own equations on random inputs, and on activations with --check; where they
differ, nothing is written.
"""


def run(arguments: Sequence[str]) -> int:
    """Convert what is at PATH into OUT and print what was compared; 0, ValueError where it cannot be done exactly."""
    args = parse(arguments)
    from saev.interop import opening

    kind, path = opening.identify(args.path)
    if kind == "saev shards":
        shards(path, args)
        return 0
    refuse(args, ("dtype", "depth", "grid"), f"{path} holds a dictionary, the option is for saev's activation shards")
    if args.check is None:
        refuse(args, ("layer", "tokens", "n_tokens"), "the option belongs to --check RECORDING")
    elif args.layer is None:
        raise ValueError("--check: say of which layer the activations are, --layer N.")
    with staged(args.out) as folder:
        proofs = export(path, folder, args) if kind == "ours" else dictionary(kind, path, folder, args)
    show(proofs, args.out)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "saev convert", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("path", type=Path, help="what to convert")
    add("out", type=Path, help="the directory to make")
    add("--check", type=Path, metavar="RECORDING", help="compare on recorded activations too")
    add("--layer", type=int, help="... of this layer")
    add("--tokens", choices=("patches", "cls", "special", "all"), help="... of these tokens (patches)")
    add("--n-tokens", type=int, help="... at most so many (20000)")
    add("--centred-encoder", choices=("yes", "no"), help="saev, schema 1: whether the encoder subtracts b_dec")
    add("--mean", type=Path, metavar="FILE", help="saev: the mean that was subtracted from activations")
    add("--scale", metavar="NUMBER|FILE", help="saev: what they were divided by; SAELens: multiplied by")
    add("--ignore-unknown", action="store_true", help="go on where a configuration has keys that are not known")
    add("--dtype", choices=("float32", "float16"), help="shards: how to store values (float32)")
    add("--depth", type=int, help="shards: blocks of the backbone, where layers are counted from its end")
    add("--grid", metavar="ROWSxCOLUMNS", help="shards: the grid of patches, which the files do not say")
    return parser.parse_args(list(arguments))


def refuse(args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """ValueError where one of these options is given."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]
    if given:
        raise ValueError(f"{', '.join(given)}: {why}; leave it out.")


def dictionary(kind: Any, path: Path, folder: Path, args: argparse.Namespace) -> list[Any]:
    """Read another library's dictionary, write ours, load it again and compare; the proofs."""
    from saev.checkpoint import load, save_dictionary
    from saev.interop import opening
    from saev.interop.foreign import Options

    centred = None if args.centred_encoder is None else args.centred_encoder == "yes"
    options = Options(centred, args.mean, args.scale, args.ignore_unknown)
    foreign = opening.read(kind, path, options)
    k = getattr(foreign.sae.sparsifier, "k", None)
    about = {
        "hyperparameters": {"source": foreign.library} | ({} if k is None else {"k": k}),
        "provenance": {"source": foreign.provenance()},
    }
    save_dictionary(foreign.sae, folder, **about)
    proofs = prove(foreign.evaluate, foreign.code_scale, load(folder), args)
    about["provenance"]["proofs"] = [dataclasses.asdict(proof) for proof in proofs]
    save_dictionary(foreign.sae, folder, **about)
    console = Console()
    console.print(
        f"{foreign.library} {foreign.architecture}, {foreign.sae.n_latents} latents of {foreign.sae.d_model} dimensions"
    )
    for note in (*foreign.notes, *foreign.rebuilt.notes):
        console.print(f"  {note}", highlight=False)
    return proofs


def export(path: Path, folder: Path, args: argparse.Namespace) -> list[Any]:
    """Write one of ours for SAELens, read the files by SAELens' equations and compare; the proofs."""
    import torch

    from saev.checkpoint import load, read_config
    from saev.interop import saelens, saelens_export
    from saev.interop.foreign import Options
    from saev.nn import SparseAutoencoder

    refuse(args, ("centred_encoder", "mean", "scale"), f"{path} is one of ours")
    ours = load(path)
    saelens_export.write(ours, read_config(path), folder)
    assert isinstance(ours, SparseAutoencoder)
    written = saelens.read(folder, Options())
    return prove(written.evaluate, torch.ones(ours.n_latents, dtype=torch.float64), ours, args)


def prove(evaluate: Any, code_scale: Any, sae: Any, args: argparse.Namespace) -> list[Any]:
    """The comparisons on random inputs and, with --check, on activations; ValueError where one does not hold."""
    from saev.interop.proof import compare, random_inputs, recorded_inputs
    from saev.shards import ActivationStore

    proofs = [compare(evaluate, code_scale, sae, random_inputs(sae), "random inputs", leave_negative=True)]
    if args.check is not None:
        store = ActivationStore(args.check)
        if store.d_model != sae.d_model:
            raise ValueError(
                f"--check {args.check} has d_model={store.d_model}, the dictionary has {sae.d_model}: give activations of its own "
                "backbone."
            )
        layer, tokens = store.resolve_layer(args.layer), args.tokens or "patches"
        if args.n_tokens is not None and args.n_tokens < 1:
            raise ValueError(f"--n-tokens {args.n_tokens}: give a positive number.")
        batches = recorded_inputs(store, layer, tokens, args.n_tokens or 20_000)
        proofs.append(compare(evaluate, code_scale, sae, batches, f"{store.name}, layer {layer}, {tokens}"))
    for proof in reversed(proofs):  # real activations tell more
        proof.require(f"{args.path} converted")
    return proofs


def shards(path: Path, args: argparse.Namespace) -> None:
    """saev's shards into a recording; its own resumable writer takes the place of `staged`."""
    from saev.interop import saev_shards

    refuse(
        args, ("check", "layer", "tokens", "n_tokens", "centred_encoder", "mean", "scale"), f"{path} holds activations"
    )
    grid = None if args.grid is None else grid_of(args.grid)
    with Progress(transient=True, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as progress:
        store = saev_shards.convert(
            path, args.out, args.dtype or "float32", args.depth, grid, args.ignore_unknown, progress
        )
    m = store.manifest
    Console().print(
        f"{args.out}: {m.n_examples} images, {m.n_tokens} tokens of {m.d_model} {m.dtype} in layers "
        f"{', '.join(map(str, m.layers))}; read back as they were"
    )


def grid_of(text: str) -> tuple[int, int]:
    """'14x18' -> (14, 18); ValueError where it is not of that form."""
    rows, x, columns = text.partition("x")
    if not (x and rows.isdigit() and columns.isdigit()):
        raise ValueError(f"--grid {text}: write rows x columns, e.g. --grid 14x18.")
    return int(rows), int(columns)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends, and leaves no trace when it raises; an existing `out` is refused."""
    if out.exists():
        raise ValueError(f"{out} is there already: it is never overwritten; choose another directory, or delete it.")
    folder = out.with_name(f"{out.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be made ({error.strerror}): choose another directory.") from error
    try:
        yield folder
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def show(proofs: Sequence[Any], out: Path) -> None:
    """Print the comparisons as a table."""
    table = Table("", *(proof.inputs for proof in proofs), show_edge=False, pad_edge=False)
    table.add_row("tokens", *(str(proof.tokens) for proof in proofs))
    for name in ("nmse", "l0"):
        for at, whose in enumerate(("the original", "the converted")):
            table.add_row(f"{name.upper()} of {whose}", *(f"{getattr(proof, name)[at]:.6g}" for proof in proofs))
    table.add_row("codes that differ", *(f"{proof.different} of {proof.active}" for proof in proofs))
    table.add_row("reconstructions that differ", *(f"{proof.apart} of {proof.tokens}" for proof in proofs))
    console = Console()
    console.print(table)
    if len(proofs) == 1:
        console.print(
            "random inputs show that both compute the same, not how good the dictionary is: its NMSE and L0 on activations "
            "tells --check RECORDING --layer N",
            highlight=False,
        )
    console.print(f"written to {out}", highlight=False)
