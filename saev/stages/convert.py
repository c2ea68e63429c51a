"""saev convert: dictionaries and activations of other libraries into ours, and ours into SAELens' format.

saev convert PATH OUT       the format of PATH is detected; each conversion is proven before OUT appears
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from saev.interop import KNOWN
from saev.progress import print_line, terminal

EPILOG = f"""\
PATH may be:
{KNOWN}

A dictionary is compared with the original's equations on random inputs, and on activations with --check; where they
differ, nothing is written.
"""


def run(arguments: Sequence[str]) -> int:
    """Convert PATH into OUT and print what was compared; 0, ValueError where it cannot be done exactly."""
    args = parse(arguments)
    from saev.interop.converting import convert
    from saev.interop.foreign import Options

    options = Options(
        centred=None if args.centred_encoder is None else args.centred_encoder == "yes",
        grid=None if args.grid is None else grid_of(args.grid),
        **{name: getattr(args, name) for name in ("mean", "scale", "ignore_unknown", "layer", "tokens", "n_tokens", "dtype", "depth")},
    )  # fmt: skip
    conversion = convert(args.path, args.out, options, check=args.check, progress=True)
    console = terminal()
    if (store := conversion.recording) is not None:
        m = store.manifest
        print_line(
            console,
            f"{args.out}: {m.n_examples} images, {m.n_tokens} tokens of {m.d_model} {m.dtype} in layers "
            f"{', '.join(map(str, m.layers))}; read back as they were",
        )
        return 0
    if conversion.source != "ours":
        console.print(conversion.source)
    for note in conversion.notes:
        print_line(console, f"  {note}")
    console.print(proof_table(conversion.proofs))
    if len(conversion.proofs) == 1:
        console.print(
            "random inputs show that both compute the same, not how good the dictionary is: --check RECORDING --layer N shows "
            "its NMSE and L0 on activations",
        )
    print_line(console, f"written to {args.out}")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "saev convert", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("path", type=Path, help="what to convert")
    add("out", type=Path, help="the directory to write")
    add("--check", type=Path, metavar="RECORDING", help="compare on recorded activations too")
    add("--layer", type=int, help="... of this layer")
    add("--tokens", choices=("patches", "cls", "special", "all"), help="... of these tokens (patches)")
    add("--n-tokens", type=int, help="... at most so many (20000)")
    add("--centred-encoder", choices=("yes", "no"), help="saev, schema 1: whether the encoder subtracts b_dec")
    add("--mean", type=Path, metavar="FILE", help="saev: the mean that was subtracted from activations")
    add("--scale", metavar="NUMBER|FILE", help="saev: what they were divided by; SAELens: multiplied by")
    add("--ignore-unknown", action="store_true", help="accept keys of a configuration that are not known")
    add("--dtype", choices=("float32", "float16"), help="shards: how to store values (float32)")
    add("--depth", type=int, help="shards: blocks of the backbone, where layers are counted from its end")
    add("--grid", metavar="ROWSxCOLUMNS", help="shards: the grid of patches, which the files do not say")
    return parser.parse_args(list(arguments))


def grid_of(text: str) -> tuple[int, int]:
    """'14x18' -> (14, 18); ValueError where it is not of that form."""
    rows, x, columns = text.partition("x")
    if not (x and rows.isdigit() and columns.isdigit()):
        raise ValueError(f"--grid {text}: write rows x columns, e.g. --grid 14x18.")
    return int(rows), int(columns)


def proof_table(proofs: Sequence[Any]) -> Table:
    """A column per comparison."""
    table = Table("", *(proof.inputs for proof in proofs), show_edge=False, pad_edge=False)
    table.add_row("tokens", *(str(proof.tokens) for proof in proofs))
    for name in ("nmse", "l0"):
        for side, which in enumerate(("the original", "the converted")):
            table.add_row(f"{name.upper()} of {which}", *(f"{getattr(proof, name)[side]:.6g}" for proof in proofs))
    table.add_row("codes that differ", *(f"{proof.different} of {proof.active}" for proof in proofs))
    table.add_row("reconstructions that differ", *(f"{proof.apart} of {proof.tokens}" for proof in proofs))
    return table
