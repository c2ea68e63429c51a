"""Which images a contrast compares: conditions, pairs, joined tables, and what is refused."""

import numpy as np
import polars as pl
import pytest
from trait_evaluation.sources.recorded import recorded

from saev.contrasts.conditions import holds, parse
from saev.contrasts.groups import columns_of, pairs_of
from saev.contrasts.settings import Groups

ROWS = [
    {
        "species": "erato" if i < 12 else "melpomene",
        "view": ("dorsal", "ventral")[i % 2],
        "year": 1990 + i,
        "race": "h" if i in (3, 20) else "p",
    }
    for i in range(24)
]
READABLE = np.ones(24, bool)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("groups") / "one", ROWS)


def test_conditions_hold_for_all_of_their_parts():
    table = pl.DataFrame({"view": ["dorsal", "ventral", None, "dorsal"], "year": [1990, 1995, 2000, None]})
    assert holds(parse("view=dorsal|ventral,year>=1995", "a"), table, "a").tolist() == [False, True, False, False]
    assert holds(parse("view!=dorsal", "a"), table, "a").tolist() == [False, True, False, False]
    assert holds(parse({"view": ["dorsal"], "year": 1990}, "a"), table, "a").tolist() == [True, False, False, False]


def test_missing_values_fulfil_nothing_and_numbers_compare_by_value():
    table = pl.DataFrame(
        {"view": ["NA", "nan", "?", "x"], "flag": [True, False, None, True], "f": [1.0, 2.5, None, 1.0]}
    )
    assert holds(parse("view!=x", "a"), table, "a").tolist() == [False] * 4
    assert holds(parse("flag=true", "a"), table, "a").tolist() == [True, False, False, True]
    assert holds(parse("f=1", "a"), table, "a").tolist() == [True, False, False, True]
    codes = pl.DataFrame({"code": ["007", "7", "1234567.25", "1234567.5"]})
    assert holds(parse("code=7", "a"), codes, "a").tolist() == [False, True, False, False]
    assert holds(parse("code=1234567.50", "a"), codes, "a").tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="column 'view' holds no numbers"):
        holds(parse("view>3", "a"), table, "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("veiw=dorsal", "there is no column 'veiw'; did you mean view?"),
        ("view=dorsl", "a=view=dorsl: no image has this value in column 'view'; did you mean dorsal?"),
        ("dorsal", "'dorsal' is no condition: write column=value"),
        ("view>dorsal", "'dorsal' is no number"),
        ("view==dorsal", "'view==dorsal' is no condition"),
        ("view=dorsal,", "a condition is empty: write column=value"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(text, said):
    with pytest.raises(ValueError, match=f".*{said.replace('?', '.')}"):
        holds(parse(text, "a"), pl.DataFrame({"view": ["dorsal"]}), "a")


def test_a_pair_has_the_images_of_its_conditions(store):
    groups = Groups(a="species=erato", b="species=melpomene", where="view=dorsal", third="race=h", min_images=2)
    (pair,) = pairs_of(groups, store.examples, READABLE)
    assert pair.name == "erato / melpomene" and pair.labels == ("erato", "melpomene", "h")
    assert pair.a.tolist() == [0, 2, 4, 6, 8, 10] and pair.b.tolist() == [12, 14, 16, 18, 20, 22]
    assert pair.third.tolist() == []  # both are in a or b
    (pair,) = pairs_of(Groups(a="year<1993", b="year>=2005", third="race=h", min_images=2), store.examples, READABLE)
    assert pair.third.tolist() == [3]  # image 20 is in b


def test_unreadable_images_are_in_no_group(store):
    readable = READABLE.copy()
    readable[:3] = False
    (pair,) = pairs_of(Groups(by="species", min_images=9), store.examples, readable)
    assert pair.a.tolist() == [*range(3, 12)]


def test_all_values_of_a_column_are_compared_two_by_two(store, caplog):
    rows = [{"genus": "abc"[i % 3]} if i < 30 else {"genus": "d"} for i in range(32)]
    table = pl.DataFrame(rows).with_columns(path=pl.lit(""))
    pairs = pairs_of(Groups(by="genus"), table, np.ones(32, bool))
    assert [pair.name for pair in pairs] == ["a / b", "a / c", "b / c"]
    assert "left out: a / d (10 and 2 images); b / d" in caplog.text


def test_a_table_of_pairs(store, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(
        "name,a,b,where\nall,species=erato,species=melpomene,\ndorsal,species=erato,species=melpomene,view=dorsal\n"
    )
    pairs = pairs_of(Groups(pairs=str(file), where="year<2012", min_images=2), store.examples, READABLE)
    assert [(pair.name, len(pair.a), len(pair.b)) for pair in pairs] == [("all", 12, 10), ("dorsal", 6, 5)]
    file.write_text("name,a\nall,species=erato\n")
    with pytest.raises(ValueError, match="has no column 'b'"):
        pairs_of(Groups(pairs=str(file)), store.examples, READABLE)
    file.write_text("name,a,b,wher\nall,species=erato,species=melpomene,x\n")
    with pytest.raises(ValueError, match="unknown column 'wher'"):
        pairs_of(Groups(pairs=str(file)), store.examples, READABLE)


def test_columns_are_joined_by_image_and_by_value(store, tmp_path):
    file = tmp_path / "more.csv"
    file.write_text("species;family\nerato;heli\nother;x\n")
    table = columns_of(Groups(by="family", table=str(file)), store)
    assert table["family"].to_list() == ["heli"] * 12 + [None] * 12
    file.write_text("image,sex\n0,f\n5.jpg,m\n")
    table = columns_of(Groups(by="sex", table=str(file)), store)
    assert table["sex"].to_list() == ["f", *[None] * 4, "m", *[None] * 18]
    file.write_text("image,view\n0,f\n")
    with pytest.raises(ValueError, match="has a column 'view' already"):
        columns_of(Groups(by="view", table=str(file)), store)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({}, "no groups are named"),
        ({"a": "species=erato"}, "b is not given"),
        ({"a": "species=erato", "b": "species=melpomene", "by": "view"}, "a and b and by are given"),
        ({"by": "view", "third": "race=h"}, "by=view has no third group"),
        ({"pairs": "nowhere.csv"}, "pairs=nowhere.csv is not there"),
        ({"by": "species", "key": "x"}, "key=x"),
    ],
)
def test_settings_of_groups_that_do_not_fit(groups, said):
    with pytest.raises(ValueError, match=said):
        Groups(**groups)


def test_groups_that_overlap_or_are_empty_are_refused(store):
    with pytest.raises(ValueError, match=r"0.jpg, 2.jpg, 4.jpg, ... \(6\) are in both groups"):
        pairs_of(Groups(a="species=erato", b="view=dorsal"), store.examples, READABLE)
    with pytest.raises(ValueError, match=r"b=melpomene has no image .* among the 12 images of where=erato"):
        pairs_of(Groups(a="species=erato", b="species=melpomene", where="species=erato"), store.examples, READABLE)
    with pytest.raises(ValueError, match=r"min_images=20: no pair .* erato / melpomene \(12 and 12 images\)"):
        pairs_of(Groups(by="species", min_images=20), store.examples, READABLE)
    with pytest.raises(ValueError, match="by=year: 1 values"):
        pairs_of(Groups(by="year", where="year=1990"), store.examples, READABLE)


def test_labels_name_the_column_where_values_alone_say_little(store, caplog):
    (pair,) = pairs_of(
        Groups(a="species=erato,year<1995", b="year>=2005", third="race=p", min_images=2), store.examples, READABLE
    )
    assert pair.labels[0] == "species=erato,year<1995"
    table = store.examples.with_columns(pl.Series("flag", [i % 2 == 0 for i in range(24)]))
    (pair,) = pairs_of(Groups(by="flag"), table, READABLE)
    assert pair.labels[:2] == ("flag=False", "flag=True")
    (pair,) = pairs_of(Groups(a="flag=true", b="flag=false"), table, READABLE)
    assert pair.name == "flag=true / flag=false"
    pairs_of(Groups(by="species", min_images=2), store.examples, READABLE)
    assert "third" not in caplog.text
    pairs_of(Groups(a="species=erato", b="species=melpomene", third="race=h"), store.examples, READABLE)
    assert "third=h has no image beside those of a and b" in caplog.text


def test_too_many_values_are_not_compared_two_by_two():
    table = pl.DataFrame({"path": [f"{i}" for i in range(100)]})
    with pytest.raises(ValueError, match="by=path: 100 values make 4950 pairs"):
        pairs_of(Groups(by="path"), table, np.ones(100, bool))
