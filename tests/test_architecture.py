"""docs/architecture.md shows the source as it is."""

import pytest

from docs.architecture import BEGIN, END, PAGE, page, picture


def test_the_page_is_up_to_date():
    text = PAGE.read_text()
    assert page(text) == text, "out of date: run `uv run python docs/architecture.py` and commit docs/architecture.md"


@pytest.mark.slow
def test_regenerating_keeps_the_text_and_replaces_the_picture():
    stale = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    fresh = page(stale)
    assert fresh.startswith("before\n") and fresh.endswith("after\n") and "\nold\n" not in fresh
    assert page(fresh) == fresh


@pytest.mark.slow
def test_the_picture_names_packages_and_imports():
    text = picture()
    assert "| 1 | `saev.nn` |" in text and "callbacks --> saev_training" in text
    assert all("|  |" not in line for line in text.splitlines()), "a package without a docstring"
