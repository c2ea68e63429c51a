"""benchmarks/gpu_all.sh: its table has every row of the parts' tables, failures and skips; the script runs on a CPU."""

import io
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_table import passed, report, tables

PYTEST = """...s
=========================== short test summary info ============================
SKIPPED [3] tests/ops/test_gpu.py:25: needs eight GPUs
======================== 12 passed, 3 skipped in 4.10s ========================
"""
MARKDOWN = "64 images\n\n| backbone | live: images/s |\n|---|---|\n| ViT-S/14 | 17.4 |\n| ViT-B/14 | 5.06 |\n"


def printed(title, *rows):
    table = Table(*rows[0], title=title)
    for row in rows[1:]:
        table.add_row(*row)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print("a line before")
    console.print(table)
    return console.export_text()


def test_rows_of_rich_and_of_markdown_are_those_printed():
    log = printed(
        "d_model 384",
        ("step", "beside", "ours ms", "goal"),
        ("topk", "dense", "1.83", "7.00"),
        ("relu", "dense", "4", ""),
    )
    assert list(tables(log)) == [
        ("d_model 384", ""), ("topk / dense", "ours ms 1.83, goal 7.00"), ("relu / dense", "ours ms 4")
    ]  # fmt: skip
    two = log + "between\n" + printed("others", ("what", "measured"), ("record / bare", "0.85"))
    assert list(tables(two))[3:] == [("others", ""), ("record / bare", "measured 0.85")]
    assert list(tables(MARKDOWN)) == [("ViT-S/14", "live: images/s 17.4"), ("ViT-B/14", "live: images/s 5.06")]
    assert passed(PYTEST) == "12 passed, 3 skipped in 4.10s" and passed("Killed") == "no summary"


def test_what_failed_or_was_skipped_is_named(tmp_path):
    ended = {
        "tests": (PYTEST, "0 5 75"),
        "live": (MARKDOWN, "0 9 30"),
        "step": ("a\nCUDA error: oh\n", "1 2 75"),
        "bank": ("", "124 60 60"),
    }
    for part, (log, status) in ended.items():
        (tmp_path / f"{part}.log").write_text(log)
        (tmp_path / f"{part}.status").write_text(status)
    text, good = report(tmp_path, "cuda", "NVIDIA H200")
    assert not good and "| tests | done | 12 passed, 3 skipped in 4.10s |" in text
    assert "| live | done | 9 s |\n| | ViT-S/14 | live: images/s 17.4 |" in text
    skipped = text.partition("Skipped:\n")[2].splitlines()
    assert skipped == [
        "- tests: SKIPPED [3] tests/ops/test_gpu.py:25: needs eight GPUs",
        "- step: failed (exit code 1); last line of its log: CUDA error: oh",
        "- recording: not asked for",
        "- bank: stopped after 60 s; last line of its log: ",
        "- verbs: not asked for",
    ]


@pytest.mark.slow
def test_the_script_runs_on_a_cpu():
    done = subprocess.run(
        ["benchmarks/gpu_all.sh", "--device", "cpu", "live"], cwd=ROOT, env=os.environ | {"PYTHON": sys.executable},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "| live | done |" in done.stdout and "| | micro | live: images/s" in done.stdout
    assert "- step: not asked for" in done.stdout
