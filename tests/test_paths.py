"""Paths and names with brackets: polars and glob would take them for patterns, rich for markup."""

import re
from pathlib import Path

import polars as pl
import pytest

from saev.files import matching, plain_name, read_parquet
from saev.progress import bar, print_line, terminal

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [p for top in ("saev", "callbacks", "datamodules", "hydra_plugins") for p in (ROOT / top).rglob("*.py")]


@pytest.mark.parametrize(
    ("call", "home"),
    [
        # use saev.files.read_parquet, or glob=False
        (r"\bpl\.(?:read|scan)_\w+\((?!(?:[^()]|\([^()]*\))*\bglob=False)", "saev/files.py"),
        (r"\bglob\.i?glob\(", "saev/files.py"),  # use saev.files.matching or Path.glob
        (r"(?<!\w)Console\(", "saev/progress.py"),  # use saev.progress.terminal
        (r'TextColumn\("[^"]*description[^"]*"\)', ""),  # needs markup=False
    ],
)
def test_paths_from_outside_go_through_one_helper(call, home):
    calls = [
        f"{path.relative_to(ROOT)}: {found}"
        for path in SOURCES
        if str(path.relative_to(ROOT)) != home
        for found in re.findall(call, path.read_text())
    ]
    assert not calls


def test_a_table_in_a_folder_with_brackets_is_read(tmp_path):
    folder = tmp_path / "lab [x]*?"
    folder.mkdir()
    pl.DataFrame({"a": [1, 2]}).write_parquet(folder / "t[1].parquet")
    assert read_parquet(folder / "t[1].parquet")["a"].to_list() == [1, 2]


def test_patterns_below_a_folder_with_brackets(tmp_path):
    for name in ("lab [x]/a/1", "lab [x]/b/1", "lab x/c/1"):
        (tmp_path / name).mkdir(parents=True)
    root = str(tmp_path / "lab [x]")
    assert matching(root) == [root]
    assert matching(f"{root}/*/1") == [f"{root}/a/1", f"{root}/b/1"]
    assert matching(f"{root}/[ab]") == [f"{root}/a", f"{root}/b"]
    assert matching(f"{root}/none") == matching(f"{root}/n*") == []


def test_brackets_are_printed(capsys):
    print_line(terminal(), "/data/lab [x]/" + "long/" * 40 + "[/red]")
    assert capsys.readouterr().out == "/data/lab [x]/" + "long/" * 40 + "[/red]\n"
    with bar("Encoding lab [x]", 2) as advance:
        advance(2)
    assert "lab [x]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a\nb", "a\x1b[2J", "caf\udce9", 7, None])
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match=r"the tar names the file .*: leave it"):
        plain_name(name, "the tar", "leave it")


@pytest.mark.parametrize("name", ["a.tar", "layer-01/a b.tar", "é/日本.png", "x;touch y", "..a", "a..b/c"])
def test_plain_names_pass(name):
    assert plain_name(name, "the tar") == name
