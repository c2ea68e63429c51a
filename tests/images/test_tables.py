from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.images.tables import RESERVED, aliases, label_columns, match, read_table


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_and_tsv_with_what_spreadsheets_do(tmp_path):
    text = '\ufeffstem, species ,note\na,"H. erato, hybrid",x\n\nb,H. sara,\n'
    expected = {"a": {"species": "H. erato, hybrid", "note": "x"}, "b": {"species": "H. sara", "note": ""}}
    assert read_table(write(tmp_path / "t.csv", text)) == expected
    assert read_table(write(tmp_path / "s.csv", "stem;species\na;H. erato, hybrid\n")) == {
        "a": {"species": "H. erato, hybrid"}
    }
    tabs = "note\tstem\nx\ta\n"
    assert read_table(write(tmp_path / "t.tsv", tabs), key="stem") == {"a": {"note": "x"}}


def test_text_is_a_key_and_a_value(tmp_path):
    found = read_table(write(tmp_path / "t.txt", "a beach\n\nb\tairport terminal\n"), column="scene")
    assert found == {"a": {"scene": "beach"}, "b": {"scene": "airport terminal"}}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.csv", "stem,x\na,1\na,2\n", r"t\.csv, line 3: second row of 'a'"),
        ("t.csv", "stem,x\na,1,2\n", r"t\.csv, line 2 has 3 fields, the header 2"),
        ("t.csv", "stem,x,x\n", r"names a column twice.*stem, x, x"),
        ("t.csv", "", r"has no column 'file'.*empty"),
        ("t.csv", "stem,x\n", r"has no column 'file'.*stem, x"),
        ("t.txt", "alone\n", r"t\.txt, line 1: 'alone'"),
    ],
)
def test_mistakes_are_named(tmp_path, name, text, says):
    with pytest.raises(ValueError, match=says):
        read_table(write(tmp_path / name, text), key="file" if "file" in says else "")


PATHS = ["images/train/a.jpg", "images/val/a.jpg", "images/val/b.c.png"]


def test_keys_are_paths_ends_or_stems(tmp_path):
    keys = ["images/train/a.jpg", "val/a", "b.c.png", "gone"]
    assert match(keys, PATHS, tmp_path) == dict(zip(keys, PATHS, strict=False))
    assert match([".\\images\\val\\a.jpg", "b.c"], PATHS, tmp_path) == {
        ".\\images\\val\\a.jpg": PATHS[1],
        "b.c": PATHS[2],
    }
    assert match(["a.jpg"], ["a.jpg", "x/a.jpg"], tmp_path) == {"a.jpg": "a.jpg"}, "a whole path means itself"


def test_doubtful_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'a' means several images"):
        match(["a"], PATHS, tmp_path)
    with pytest.raises(ValueError, match=r"'val/a' and 'val/a\.jpg' both mean images/val/a\.jpg"):
        match(["val/a", "val/a.jpg"], PATHS, tmp_path)


words = st.sampled_from(["a", "b", "a.b", "b.a", "ab"])
trees = st.lists(st.lists(words, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6, unique=True)


@settings(deadline=None)
@given(trees, st.data())
def test_a_key_means_the_one_image_that_it_can_mean(paths, data):
    path = data.draw(st.sampled_from(paths))
    alias = data.draw(st.sampled_from(sorted(aliases(path))))
    others = [p for p in paths if p != path and alias in aliases(p)]
    if not others or alias == path:
        assert match([alias], paths, Path("t")) == {alias: path}
    elif alias not in paths:
        with pytest.raises(ValueError, match="several images"):
            match([alias], paths, Path("t"))


def test_columns_are_integers_only_where_nothing_is_lost():
    rows = {"a": {"n": "-3", "tag": "007", "gap": "", "big": "9" * 30, "width": "5"}}
    rows["b"] = {"n": "0", "tag": "1", "gap": "2", "big": "1", "width": "6"}
    found = label_columns(rows)
    assert found["a"] == {"n": -3, "tag": "007", "gap": "", "big": "9" * 30, "label_width": 5}
    assert not {*found["a"]} & {*RESERVED}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "file,s\n1.png,a\n2.png,H\xe9liconius\n".encode("latin1"),
            r"t\.csv, line 3: the byte 0xe9 is not UTF-8.*iconv -f latin1",
        ),
        ("file,s\n1.png,a\n".encode("utf-16"), r"t\.csv, line 1: the text is UTF-16.*CSV UTF-8.*iconv -f utf-16"),
        ("file,s\n1.png,a\n".encode("utf-16-le"), r"t\.csv, line 1: the text is UTF-16"),
        (b'file,s\n1.png,a\n2.png,"b\n3.png,c\n', r"t\.csv, line 3: a field's quotes do not match.*close the quote"),
        (b'file,s\n1.png,"a"x\n', r"t\.csv, line 2: a field's quotes do not match"),
        (b'file,s\n1.png,"a\n' + b"2.png,b\n" * 30000, r"t\.csv, line 2: a field's quotes do not match"),
    ],
)
def test_encodings_and_quotes_are_named_with_their_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.csv")


def test_what_is_right_is_read(tmp_path):
    """With a byte order mark, a newline and a doubled quote in a field, and a separator that is no end of line."""
    (tmp_path / "t.csv").write_bytes('\ufefffile,s\r\n1.png,"a\n""b"""\r\n2.png,c\u2028d\x85e\r\n'.encode())
    assert read_table(tmp_path / "t.csv") == {"1.png": {"s": 'a\n"b"'}, "2.png": {"s": "c\u2028d\x85e"}}
    (tmp_path / "t.txt").write_bytes("1.png H\xe9\n".encode("latin1"))
    with pytest.raises(ValueError, match=r"t\.txt, line 1: the byte 0xe9"):
        read_table(tmp_path / "t.txt")
