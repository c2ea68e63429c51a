"""Which version of the code made a result."""

import subprocess
from pathlib import Path


def git_commit() -> str | None:
    """The commit of the clone that runs, with "+" where files differ from it; None outside a clone."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
