"""Directories among what is typed: plain, by key, by pattern."""

import pytest

from saev.config.command_line import directories_as_key


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("saes/k=8", "saes/k=16", "runs/a"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("typed", "overrides"),
    [
        (["saes/k=8", "splice=true"], ["splice=true", 'dictionaries=["saes/k=8"]']),
        (["dictionaries=saes/k=8"], ['dictionaries=["saes/k=8"]']),
        (["dictionaries=saes/*", "runs/a"], ['dictionaries=["saes/k=16","saes/k=8","runs/a"]']),
        (["saes/k=*"], ['dictionaries=["saes/k=16","saes/k=8"]']),
        (["dictionaries=[saes/k=8]", "layer=8"], ["dictionaries=[saes/k=8]", "layer=8"]),
        (["dictionaries=not/there"], ['dictionaries=["not/there"]']),
        (["not/*"], ['dictionaries=["not/*"]']),
        (["~linear", "layer=8", "classes=[1,2]"], ["~linear", "layer=8", "classes=[1,2]"]),
        ([f"labels={'x' * 5000}"], [f"labels={'x' * 5000}"]),
    ],
)
def test_directories_become_one_override(here, typed, overrides):
    assert directories_as_key("dictionaries", typed) == overrides
