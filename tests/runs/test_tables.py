"""Tables on disk and their hashes."""

import polars as pl

from saev.runs.tables import changed_tables, write_table


def test_changes_of_tables_are_named(tmp_path):
    rows = [{"a": i, "b": [i]} for i in range(100)]
    for name in ("results", "images"):
        path = write_table(tmp_path / "run [x]", name, rows)
    assert pl.read_parquet(path, glob=False).to_dicts() == rows and changed_tables(path.parent) == []
    assert pl.read_csv(path.with_suffix(".csv").read_bytes()).columns == ["a"]
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    (path.parent / "results.csv").unlink()
    assert changed_tables(path.parent) == [
        "results.csv is missing", "images.parquet differs from what was recorded (sha256)"
    ]  # fmt: skip
    write_table(path.parent, "images", rows[:3])
    assert changed_tables(path.parent) == ["results.csv is missing"]
