from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from trait_evaluation.sources.recorded import recorded

from saev.trait_evaluation.sources import Matrix

ANNOTATIONS = ROOT.parent / "shared" / "data" / "annotations"
CLASSES = ["001.Grizzly_Bear", "Polar bear", "black-footed albatross", "Polar bear", ""]
CSV = "class,furry,flies,barks,swims\ngrizzly+bear,1,0,0,\npolar+bear,1,0,0,1\nBlack footed albatross,0,1,0,0\nwolf,1,0,1,0\n"
ALL = np.arange(5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("matrix") / "animals", [{"class": name} for name in CLASSES])


def written(folder: Path, text: str = CSV) -> str:
    (folder / "m.csv").write_text(text)
    return str(folder / "m.csv")


def test_images_have_the_traits_of_their_class(store, tmp_path, caplog):
    caplog.set_level("INFO")
    table = Matrix(written(tmp_path)).table(store, ALL)
    assert table.names == ("furry", "flies", "swims")
    bear, polar, bird, unknown = [1, 0, -1], [1, 0, 1], [0, 1, 0], [-1, -1, -1]
    assert table.values.tolist() == [bear, polar, bird, polar, unknown]
    assert "1 of 4 traits are the same in all 3 classes of animals and left out: barks" in caplog.text
    assert Matrix(written(tmp_path)).table(store, np.array([2, 0])).values.tolist() == [bird, bear]


def test_a_class_without_a_row_is_named_with_those_like_it(store, tmp_path):
    path = written(tmp_path, CSV.replace("polar+bear", "polar bears"))
    message = (
        r"1 of the 3 values of column 'class' of animals are none of its 4 classes: 'Polar bear' \(like polar bears"
    )
    with pytest.raises(ValueError, match=message + r".*traits\.missing=unknown"):
        Matrix(path).table(store, ALL)
    table = Matrix(path, missing="unknown").table(store, ALL)
    assert table.names == ("furry", "flies") and table.values[:, 0].tolist() == [1, -1, 0, -1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV + "Wolf,1,0,1,0\n", r"'wolf' and 'Wolf' are one class"),
        (CSV.replace("1,0,1,0", "1,0,x,0"), r"'wolf' has barks='x'"),
        ("class,furry\na,1\nb,0\n", r"3 of the 3 values .*: rename them, or join by other columns \(traits\.column"),
        ("class,alive\n" + "".join(f"{name},1\n" for name in CLASSES[:3]), "every trait is the same in all classes"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(store, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        Matrix(written(tmp_path, text), missing="unknown").table(store, ALL)


def test_what_is_not_there_is_named(store, tmp_path):
    with pytest.raises(ValueError, match=r"traits\.path is not set: .*AwA2's folder"):
        Matrix().check()
    with pytest.raises(ValueError, match=r"traits\.path=.* is neither a csv"):
        Matrix(str(tmp_path)).check()
    with pytest.raises(ValueError, match=r"traits\.column=kind: animals has no such column; choose among class"):
        Matrix(written(tmp_path), column="kind").table(store, ALL)
    with pytest.raises(ValueError, match=r"traits\.missing=drop: choose refuse or unknown"):
        Matrix(written(tmp_path), missing="drop")


def awa2(folder: Path, lines: str = "1 0 0\n1 0 1\n0 1 0\n") -> str:
    (folder / "classes.txt").write_text("     1\tgrizzly+bear\n     2\tpolar+bear\n     3\tblack+footed+albatross")
    (folder / "predicates.txt").write_text("     1\tfurry\n     2\tflys\n     3\tarctic\n")
    (folder / "predicate-matrix-binary.txt").write_text(lines)
    return str(folder)


def test_the_three_files_of_awa2(store, tmp_path):
    table = Matrix(awa2(tmp_path)).table(store, ALL)
    assert table.names == ("furry", "flys", "arctic")
    assert table.values[:4].tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0], [1, 0, 1]]
    (tmp_path / "predicates.txt").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"is neither a csv .* predicates\.txt"):
        Matrix(str(tmp_path)).check()
    with pytest.raises(
        ValueError, match=r"has 2 lines of \[2, 3\] fields, classes\.txt 3 classes and predicates\.txt 3"
    ):
        Matrix(awa2(tmp_path, "1 0 0\n1 0\n")).table(store, ALL)


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="needs the annotations of AwA2 beside the repository")
def test_the_published_matrix_and_its_part_for_tiny_imagenet_agree(tmp_path):
    part = ANNOTATIONS / "tinyimagenet_awa2_attributes.csv"
    rows = [line.split(",")[:2] for line in part.read_text().splitlines()[1:]]
    store = recorded(
        tmp_path / "tiny", [{"wnid": wnid, "class": name.replace("+", " ").title()} for wnid, name in rows]
    )
    images = np.arange(len(rows))
    whole = Matrix(str(ANNOTATIONS)).table(store, images)
    same = Matrix(str(part), column="wnid", ignore=("awa2_class",)).table(store, images)
    assert len(rows) == 12 and len(whole.names) == 64
    assert whole.names == same.names and (whole.values == same.values).all()
