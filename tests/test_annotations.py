"""annotations.csv: rows come back as written, none is lost or changed, spreadsheets' files are read, malformed ones are refused."""

import datetime
import logging
import shutil
import threading

import polars as pl
import pytest
import torch

import saev
from saev import annotations
from saev.annotations import FILE, LOCK, SCHEMA
from saev.nn import SparseAutoencoder, TopK

HEADER = ",".join(SCHEMA)


@pytest.fixture
def folder(tmp_path):
    return saev.save_dictionary(SparseAutoencoder(8, 16, TopK(2)), tmp_path / "saes" / "k=2")


def row(latent=3, name="eye spot", author="ada", **other):
    about = {"confidence": None, "note": "", "author": author, "date": "2026-11-01"}
    return {"run": "k=2", "latent": latent, "name": name, **about, **other}


def test_what_is_written_is_read_and_the_dictionary_is_as_before(folder, tmp_path):
    assert annotations.names(folder) == {} and annotations.read(folder).schema == pl.Schema(SCHEMA)
    file = saev.annotate(
        folder, 3, ' eye,\n "spot"; äé ', confidence=0.8, note="left, wing", author="ada", date="2026-11-01"
    )
    assert file == folder / FILE and file.read_bytes().startswith(HEADER.encode())
    expected = ("k=2", 3, 'eye, "spot"; äé', 0.8, "left, wing", "ada", datetime.date(2026, 11, 1))
    assert annotations.read(folder).rows() == annotations.read(file).rows() == [expected]
    saev.annotate(folder, 15, "edge")
    assert annotations.read(folder)["date"][1] == datetime.date.today() and annotations.read(folder)["author"][1]
    moved = shutil.copytree(folder, tmp_path / "other")
    assert annotations.names(moved) == {3: 'eye, "spot"; äé', 15: "edge"} == saev.find_dictionaries(moved)[0].names()
    assert saev.load(moved).n_latents == 16
    saev.save_dictionary(SparseAutoencoder(8, 16, TopK(2)), folder)  # again: the names stay
    assert len(annotations.names(folder)) == 2 and not list(folder.glob("*.tmp"))


def test_the_newest_name_counts_and_of_one_day_the_last(folder):
    rows = [row(name="b", date="2026-11-03"), row(name="a", date="2026-11-02"), row(name="c", date=None)]
    rows += [row(4, "x"), row(4, "y"), row(4, "")]
    assert annotations.merge(folder, rows) == 6
    assert annotations.names(folder) == {3: "b", 4: "y"}


def test_merging_adds_rows_and_changes_none(folder, caplog):
    saev.annotate(folder, 3, "eye spot", author="ada", confidence=0.5)
    before = annotations.read(folder)
    with caplog.at_level(logging.WARNING):
        saev.annotate(folder, 3, "eye spot", author="ada", confidence=0.9)
    assert "has already named latent 3 'eye spot'" in caplog.text and annotations.read(folder).equals(before)
    theirs = [row(author="bob"), row(name="eye", colour="red"), row(name="eye"), row(confidence=1)]
    assert annotations.merge(folder, theirs) == 2  # the third is the second, the last one there already
    after = annotations.read(folder)
    assert after.head(1).select(before.columns).equals(before) and after["colour"].to_list() == ["", "", "red"]
    assert annotations.merge(folder, folder / FILE) == 0 == annotations.merge(folder, [])
    with pytest.raises(ValueError, match="k=4: the rows are of another run than k=2"):
        annotations.merge(folder, [row(run="k=4")])


def test_a_spreadsheets_file_is_read(folder):
    """With a byte order mark, semicolons, decimal commas, further columns, and empty fields."""
    lines = "\ufeffrun;latent;name;confidence;note;author;date;seen\r\nk=2;3;eye spot;0,75;;;;yes\r\n\r\nk=2;4;fur;;a, b;;2026-11-02;\r\n"
    (folder / FILE).write_bytes(lines.encode())
    table = annotations.read(folder)
    assert table["confidence"].to_list() == [0.75, None] and table["seen"].to_list() == ["yes", ""]
    saev.annotate(folder, 5, "tail")
    assert annotations.read(folder).head(2).equals(table) and annotations.names(folder) == {
        3: "eye spot",
        4: "fur",
        5: "tail",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "without run, latent"),
        ("run,latent,name\n", "without confidence, note, author, date"),
        (HEADER + ",run\n", "names a column twice"),
        (HEADER + "\nk=2,16,a,,,,\n", "line 2: latent='16': must be the number of a latent of 16, counted from 0"),
        (HEADER + "\nk=2,3,a,,,,\nk=2,x,a,,,,\n", "line 3: latent='x'"),
        (HEADER + "\nk=2,-1,a,,,,\n", "latent='-1'"),
        (HEADER + "\nk=2,3,a,1.5,,,\n", "line 2: confidence='1.5': must be between 0 and 1"),
        (HEADER + "\nk=2,3,a,nan,,,\n", "confidence='nan'"),
        (HEADER + "\nk=2,3,a,,,,28.11.2026\n", "line 2: date='28.11.2026': must be written as 2026-11-28"),
        (HEADER + "\nk=2,3,a\n", "line 2 has 3 fields, the header 7"),
        (HEADER + '\nk=2,3,"a,,,,\n', "a field's quotes do not match"),
    ],
)
def test_malformed_files_are_refused_and_left_as_they_are(folder, text, said):
    (folder / FILE).write_text(text)
    for attempt in (
        annotations.names,
        lambda path: saev.annotate(path, 3, "a"),
        lambda path: saev.find_dictionaries(path)[0].names(),
    ):
        with pytest.raises(ValueError, match=FILE) as error:
            attempt(folder)
        assert said in str(error.value)
    assert (folder / FILE).read_text() == text


def test_what_cannot_be_annotated_is_refused(folder, tmp_path, monkeypatch):
    refused = [
        ("latent", 16, "of 16"),
        ("name", " \n", "name="),
        ("confidence", 2.0, "between 0 and 1"),
        ("date", "today", "date="),
    ]
    for key, value, said in refused:
        with pytest.raises(ValueError, match=said):
            saev.annotate(folder, **{"latent": 3, "name": "a", key: value})
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        saev.annotate(tmp_path, 3, "a")

    def refuse(path, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(annotations, "write_atomically", refuse)
    with pytest.raises(ValueError, match=r"annotations\.csv cannot be written \(Permission denied\): annotate a copy"):
        saev.annotate(folder, 3, "a")
    assert not (folder / FILE).exists()


def test_control_characters_reach_no_page(folder):
    (folder / FILE).write_text(HEADER + "\nk=2,3,eye\x1b[31m spot,,,,\n")
    assert annotations.names(folder) == {3: "eye [31m spot"}


def test_rows_of_writers_side_by_side_are_all_kept(folder):
    def write(author):
        for latent in range(8):
            saev.annotate(folder, latent, f"{author} {latent}", author=author)

    writers = [threading.Thread(target=write, args=(name,)) for name in ("ada", "bob", "eve")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {*annotations.read(folder).select("author", "latent").iter_rows()} == {
        (a, i) for a in ("ada", "bob", "eve") for i in range(8)
    }


def test_others_who_may_write_in_the_folder_can_take_the_lock(folder):
    """Guards against a lock that only the first author could open."""
    saev.annotate(folder, 3, "eye spot")
    assert (folder / LOCK).stat().st_mode & 0o777 == 0o666


def test_two_processes_lose_no_row(folder, nursery, tmp_path):
    for name in ("out", "err"):
        (tmp_path / name).touch()
    children = [
        nursery.ask(script=["test_annotations:write_rows", str(folder), name], env={}, out=str(tmp_path / "out"), err=str(tmp_path / "err"))
        for name in ("ada", "bob")
    ]  # fmt: skip
    codes = []
    for child in children:
        while (code := nursery.ask(poll=child["pid"])["code"]) is None:
            pass
        codes.append(code)
    assert codes == [0, 0], (tmp_path / "err").read_text()
    assert len(annotations.read(folder)) == 20


def write_rows(folder, author):
    for latent in range(10):
        annotations.annotate(folder, latent, f"name {latent}", author=author)


def test_names_as_columns():
    table = pl.DataFrame({"pair": ["x", "y"], "latent": [3, 4], "z": [1.0, 2.0]})
    assert annotations.with_names(table, {3: "eye"}).columns == ["pair", "latent", "name", "z"]
    assert annotations.with_names(table, {3: "eye"})["name"].to_list() == ["eye", None]
    assert annotations.with_names(table, {}).schema["name"] == pl.String
    assert (
        annotations.with_names(table.with_columns(pl.lit(None, pl.Null).alias("latent")), {3: "eye"})[
            "name"
        ].null_count()
        == 2
    )


def test_codes_have_the_names_of_their_dictionary(tiny, tmp_path):
    sae = SparseAutoencoder(16, 24, TopK(2))
    path = saev.save_dictionary(
        sae, tmp_path / "saes" / "k=2", provenance={"dataset": str(tiny), "layer": 2, "token_roles": "patches"}
    )
    saev.annotate(path, 3, "eye spot")
    (codes,) = saev.encode(path, tiny, saev.EncodeSettings(device="cpu"), out=tmp_path / "codes")
    assert codes.names() == {3: "eye spot"}
    with torch.no_grad():
        sae.w_enc.mul_(2)
    saev.save_dictionary(sae, path)  # another dictionary in its folder
    assert codes.names() == {}


def test_the_command_names_merges_and_lists(cli, folder, tmp_path):
    said = cli("annotate", str(folder), "3", "eye", "spot", "--confidence", "0.8", "--author", "ada")
    assert said.code == 0 and annotations.names(folder) == {3: "eye spot"}
    (tmp_path / "theirs.csv").write_text(HEADER + "\nk=2,7,[fur],,,bob,2026-11-01\n")
    assert "1 new rows" in cli("annotate", str(folder), "--merge", str(tmp_path / "theirs.csv")).out
    listed = cli("annotate", str(folder)).out
    assert "eye spot" in listed and "[fur]" in listed and "0.8" in listed
    assert cli("doctor", str(folder)).code == 0
    refused = cli("annotate", str(folder), "99", "a")
    assert refused.code == 1 and "latent='99'" in refused.err
