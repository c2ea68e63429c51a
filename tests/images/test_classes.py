import pytest

from saev.images.classes import read_classes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"0": "sky", "12": "long tail"}'),
        ("c.json", '{"sky": 0, "long tail": 12}'),
        ("c.json", '{"categories": [{"id": 0, "name": "sky"}, {"id": 12, "name": "long tail"}]}'),
        ("c.yaml", "0: sky\n12: long tail\n"),
        ("c.yml", "path: data\nnames:\n  0: sky\n  12: long tail\n"),
        ("c.csv", "id,name,colour\n0,sky,blue\n12,long tail,red\n"),
        ("c.txt", "0 sky\n\n12 long tail\n"),
        ("c.txt", "0: sky\n12: long tail"),
        ("c.txt", "Idx\tRatio\tTrain\tVal\t\tName\n0\t0.15\t11664\t1172\tsky\n12\t0.10\t6046\t612\tlong tail\n"),
    ],
)
def test_names_by_id(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == {0: "sky", 12: "long tail"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '["sky"]'),
        ("c.json", '[["sky"]]'),
        ("c.yaml", "- sky"),
        ("c.yaml", "a: [b"),
        ("c.xml", "<0>sky</0>"),
        ("c.xlsx", "x"),
        ("c.json", "{"),
        ("c.txt", "sky\n"),
        ("c.txt", ""),
        ("c.csv", "a,b\nx,y\n"),
    ],
)
def test_files_without_ids_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"images\.classes=.*{name}.*(wall|sky)"):
        read_classes(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"images\.classes=.*gone\.txt does not exist"):
        read_classes(tmp_path / "gone.txt")


def test_a_list_of_yolo_counts_from_0_and_words_stay_words(tmp_path):
    (tmp_path / "data.yaml").write_text("nc: 2\nnames: [no, off]\n")
    assert read_classes(tmp_path / "data.yaml") == {0: "no", 1: "off"}
