"""The results of gpu_all.sh as one table in markdown, and what was skipped: `python benchmarks/gpu_table.py FOLDER DEVICE`.

FOLDER has a log of each part and a status: exit code, seconds, seconds allowed.
"""

import datetime
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PARTS = ("tests", "step", "recording", "bank", "live", "verbs")
TIMED_OUT = 124  # exit code of `timeout`


def tables(log: str) -> Iterator[tuple[str, str]]:
    """(what, numbers) of each row of the tables that rich or a benchmark has printed; titles become rows without numbers."""
    header: list[str] = []
    previous = ""
    for line in log.splitlines():
        if line.lstrip().startswith("┏") and previous.strip():
            yield previous.strip(), ""
        if line.strip().startswith(("┃", "│")) or re.match(r"\|.*\|$", line.strip()):
            cells = [cell.strip() for cell in re.split("[┃│|]", line.strip())[1:-1]]
            if "┃" in line or (line.startswith("|") and not header):
                header = cells
            elif not {*"".join(cells)} <= {"-", ":"}:
                named = dict(zip(header, cells, strict=False))
                n = 2 if list(named)[1:2] == ["beside"] else 1
                what = " / ".join(list(named.values())[:n])
                yield what, ", ".join(f"{key} {value}" for key, value in list(named.items())[n:] if value)
        elif line.strip():
            previous = line
            header = header if line.lstrip().startswith(("┡", "┏", "└")) else []


def passed(log: str) -> str:
    """The last line of pytest's summary, e.g. "3 passed, 2 skipped in 4.1s"."""
    lines = re.findall(r"^=*\s*(\d+ \w+.* in [\d.]+s.*?)\s*=*$", log, re.MULTILINE)
    return lines[-1] if lines else "no summary"


def report(folder: Path, device: str, title: str) -> tuple[str, bool]:
    """(markdown, whether all parts that were run have succeeded)."""
    lines, left_out = [f"{title}", "", "| part | what | result |", "|---|---|---|"], []
    good = True
    for part in PARTS:
        status = folder / f"{part}.status"
        if not status.is_file():
            left_out.append(f"{part}: not asked for")
            continue
        code, seconds, most = map(int, status.read_text().split())
        log = (folder / f"{part}.log").read_text(errors="replace")
        ended = (
            "done" if code == 0 else f"stopped after {most} s" if code == TIMED_OUT else f"failed (exit code {code})"
        )
        lines.append(f"| {part} | {ended} | {passed(log) if part == 'tests' else f'{seconds} s'} |")
        if part != "tests":
            lines += [f"| | {what} | {numbers} |" for what, numbers in tables(log)]
        left_out += [f"{part}: {line}" for line in re.findall(r"^SKIPPED \[\d+\] .*$", log, re.MULTILINE)]
        if code:
            good = False
            last = [line for line in log.splitlines() if line.strip()][-1:]
            left_out.append(f"{part}: {ended}; last line of its log: {''.join(last)[:200]}")
    lines += ["", "Skipped:" if left_out else "Nothing was skipped.", *(f"- {line}" for line in left_out)]
    return "\n".join(lines), good


def main() -> int:
    folder, device = Path(sys.argv[1]), sys.argv[2]
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device
    cores = len(os.sched_getaffinity(0))
    date = datetime.datetime.now().astimezone().date()
    text, good = report(folder, device, f"{name}, {cores} CPU cores, torch {torch.__version__}, {date}")
    print(text)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
