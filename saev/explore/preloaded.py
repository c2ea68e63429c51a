"""The process of the explorer's server: marimo, after the imports and the dictionary that the first page needs."""

import contextlib
import runpy

from saev.explore import cards, compare, plots, widget  # noqa: F401
from saev.explore.opening import opened_at
from saev.explore.server import current


def main() -> None:
    """Open the first dictionary, then run marimo's command line with this process's arguments."""
    session = current()
    with contextlib.suppress(ValueError):  # the page says what is missing
        opened_at(session.first(session.runs()), session)
    runpy.run_module("marimo", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
