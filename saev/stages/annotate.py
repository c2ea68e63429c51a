"""saev annotate: name the latents of a dictionary, merge names of others, or list them.

saev annotate DICTIONARY 965 "eye spot" --confidence 0.8      saev annotate DICTIONARY --merge FILE      saev annotate DICTIONARY
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from saev.progress import print_line, terminal


def run(arguments: Sequence[str]) -> int:
    """Add a row to annotations.csv, those of another file, or print all; 0. ValueError for what does not fit."""
    args = parse(arguments)
    from saev import annotations

    console = terminal()
    if args.latent is not None:
        options = {key: getattr(args, key) for key in ("confidence", "note", "author")}
        print_line(
            console, f"written to {annotations.annotate(args.dictionary, args.latent, ' '.join(args.name), **options)}"
        )
    elif args.merge is not None:
        n = annotations.merge(args.dictionary, args.merge)
        print_line(console, f"{n} new rows in {args.dictionary / annotations.FILE}")
    else:
        rows, columns = annotations.read(args.dictionary), ("latent", "name", "confidence", "note", "author", "date")
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows.select(columns).sort("latent", maintain_order=True).iter_rows():
            table.add_row(*(Text("" if value is None else str(value)) for value in row))
        console.print(table)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(
        "saev annotate", description="Names of latents: annotations.csv in a dictionary's folder."
    )
    parser.add_argument(
        "dictionary", type=Path, help="the folder with config.json, e.g. outputs/train/<date>/<run>/saes/k=32"
    )
    parser.add_argument("latent", nargs="?", type=int, help="its number; without one, list or merge")
    parser.add_argument("name", nargs="*", help="what it shows")
    parser.add_argument("--confidence", type=float, metavar="X", help="0 to 1")
    parser.add_argument("--note", default="", metavar="TEXT")
    parser.add_argument("--author", metavar="NAME", help="default: your login")
    parser.add_argument("--merge", metavar="FILE", help="add the rows of another annotations file of this dictionary")
    return parser.parse_args(list(arguments))
