"""Trees of taxa: nodes, leaves, missing values, and where the values come from."""

import numpy as np
import pytest
from taxon_map.planted import FAMILY, planted_recording, taxonomy

from saev.probing.image_tables import joined
from saev.taxon_map.ranks import ranks_of
from saev.taxon_map.tree import group_leaves, tree_of

FAMILIES = ["F", "C", "F", "C", None, "F", "C"]
SPECIES = ["lion", "wolf", "lynx", None, "yeti", "lion", "fox"]


def brute(values: dict, node_name: str) -> list[bool]:
    """Whether each image has the values that a node's name says, and every rank above."""
    parts = dict(part.split("=") for part in node_name.split("/"))
    return [all(values[rank][i] == value for rank, value in parts.items()) for i in range(len(FAMILIES))]


def test_nodes_are_all_prefixes_and_have_the_images_with_their_values():
    values = {"family": FAMILIES, "species": SPECIES}
    tree = tree_of(values)
    assert [node.name for node in tree.nodes] == [
        "family=C", "family=C/species=fox", "family=C/species=wolf", "family=F", "family=F/species=lion", "family=F/species=lynx",
    ]  # fmt: skip
    members = tree.members(tree.leaf)
    for node, column in zip(tree.nodes, members.T, strict=True):
        assert column.astype(bool).tolist() == brute(values, node.name)
        assert node.n_images == column.sum()
    order = np.argsort(tree.leaf, kind="stable")
    assert [SPECIES[i] for i in order] == ["fox", "wolf", None, "lion", "lion", "lynx", "yeti"]  # without family last


def test_numbers_are_ordered_by_size():
    assert [node.value for node in tree_of({"year": ["1999", "870", "n/a", "2001"]}).nodes] == [
        "870",
        "1999",
        "2001",
        "n/a",
    ]


def test_one_value_is_refused():
    with pytest.raises(ValueError, match="all 3 images have one value, F"):
        tree_of({"family": ["F", "F", "F"]}).separating()
    kept = tree_of({"family": ["F", "F", "F"], "species": ["a", "b", "b"]}).separating()
    assert [node.value for node in kept.nodes] == ["a", "b"]


def test_groups_of_several_leaves_are_refused():
    tree = tree_of({"species": ["a", "a", "b", "b"]})
    assert group_leaves(tree, np.array([1, 1, 0, 2]), "specimen").tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="group=specimen: 1 groups have images of different species"):
        group_leaves(tree, np.array([1, 0, 0, 2]), "specimen")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return planted_recording(tmp_path_factory.mktemp("map") / "data")[0]


def test_ranks_come_from_columns_and_from_a_table_by_value_or_by_image(store, tmp_path):
    animal = store.examples["animal"].to_list()
    assert ranks_of(store.examples, ["animal"]) == {"animal": animal}
    by_value = ranks_of(joined(store, taxonomy(tmp_path / "tree.csv"), "taxonomy"), ["family", "animal"])
    assert by_value == {"family": [FAMILY[one] for one in animal], "animal": animal}
    (tmp_path / "images.csv").write_text("image;sex;year\n000;f;1999\n001;;2001\n002;NA;2002\n")
    by_image = ranks_of(joined(store, tmp_path / "images.csv", "taxonomy"), ["sex", "year"])
    assert by_image["sex"][:3] == ["f", None, None] and not any(by_image["sex"][1:])
    assert by_image["year"][:4] == ["1999", "2001", "2002", None]


@pytest.mark.parametrize(
    ("rows", "table", "said"),
    [
        (["famly"], "animal,family\nlion,F\n", "rows=[famly]: there is no column 'famly'; did you mean family"),
        (["anmal"], None, "did you mean animal"),
        (["path"], None, "there is no column 'path'"),
        (["family"], "animal,family\nsnake,F\n", "taxonomy=TABLE: no value of its column 'animal' is one of data"),
        (["family"], "animal,family\nlion,\n", "column 'family' is empty"),
        (["family"], "animal\nlion\n", "taxonomy=TABLE has one column alone"),
        (["family"], "image,family\nx.jpg,F\n", "0 of the 96 images"),
        (["family"], "Animal,family\nlion,F\n", "its first column 'Animal' is no column of data; did you mean animal?"),
        (["family"], "animal,family\nlion,F\nlion,G\n", "second row of 'lion'; keep one of them"),
        (["camera"], "animal,camera\nlion,F\n", "taxonomy=TABLE: data has a column 'camera' already"),
    ],
)
def test_ranks_that_are_not_there(store, tmp_path, rows, table, said):
    file = tmp_path / "tree.csv"
    file.write_text(table or "")
    with pytest.raises(ValueError) as error:
        ranks_of(store.examples if table is None else joined(store, file, "taxonomy"), rows)
    assert said.replace("TABLE", str(file)) in str(error.value)


def test_columns_that_the_recording_has_and_that_are_not_used_are_left_out(store, tmp_path):
    (tmp_path / "tree.csv").write_text("animal,family,camera\nlion,F,other\n")
    table = joined(store, tmp_path / "tree.csv", "taxonomy", used={"family"})
    assert table["camera"].equals(store.examples["camera"]) and {*table["family"].to_list()} == {"F", None}


def test_a_missing_table_is_named(store, tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        joined(store, tmp_path / "none.csv", "taxonomy")
