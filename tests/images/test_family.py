"""Every image set goes through the same trials; a new one is tested as soon as it has a builder in trees.py."""

import dataclasses
import inspect
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import ROOT
from images.trees import BUILDERS

import saev.demo
import saev.images
from saev.images import ImageSource
from saev.images.tables import RESERVED

SETS = {
    name: kind
    for name, kind in {**vars(saev.images), **vars(saev.demo)}.items()
    if inspect.isclass(kind) and issubclass(kind, ImageSource) and not inspect.isabstract(kind)
}
CASES = [(name, build) for name in SETS for build in BUILDERS.get(name, [])]
CONFS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf" / "images").glob("*.yaml"))}


def test_every_set_is_tried_and_has_a_config():
    assert {*SETS} == {*BUILDERS}
    assert {conf["_target_"].rpartition(".")[2] for conf in CONFS.values()} == {*SETS}


@pytest.mark.parametrize("conf", CONFS)
def test_a_config_shows_every_option(conf):
    options = {key for key in CONFS[conf] if key != "_target_"}
    fields = {field.name for field in dataclasses.fields(SETS[CONFS[conf]["_target_"].rpartition(".")[2]])}
    assert options == fields


@pytest.fixture(params=CASES, ids=[f"{name}-{build.__name__}" for name, build in CASES])
def case(request, tmp_path, monkeypatch):
    """(class, its arguments) of a set with a tree of its own."""
    name, build = request.param
    monkeypatch.setenv("SAEV_CACHE", str(tmp_path / "tree"))
    return SETS[name], build(tmp_path / "tree")


def test_keys_are_unique_sorted_and_relative(case):
    images = case[0](**case[1])
    images.check()
    paths = images.paths()
    assert len(paths) >= 3 and paths == sorted({*paths})
    assert not any(path.startswith(("/", ".")) or "\\" in path for path in paths)
    assert isinstance(images.kind, str) and "/" not in images.name and isinstance(images.credits(), str)


def test_labels_are_the_same_columns_for_each_and_make_a_table(case):
    images = case[0](**case[1])
    rows = [images.labels(i) for i in range(len(images.paths()))]
    assert len({tuple(row) for row in rows}) == 1
    assert not {*rows[0]} & {*RESERVED}
    for column in rows[0]:
        assert len({type(row[column]) for row in rows}) == 1 and isinstance(rows[0][column], str | int)
    assert len(pl.DataFrame(rows)) == len(rows) or not rows[0]


def test_every_image_opens_in_rgb_and_alike_from_many_threads(case):
    images = case[0](**case[1])
    indices = range(len(images.paths()))
    expected = [np.asarray(images.open(i)) for i in indices]
    assert all(picture.ndim == 3 and picture.shape[2] == 3 for picture in expected)
    assert len({picture.tobytes() for picture in expected}) == len(expected), "and each is another one"
    fresh = case[0](**case[1])
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            found = list(threads.map(lambda i: (fresh.open(i), fresh.mask(i), fresh.labels(i)), indices))
            assert all(np.array_equal(f[0], e) for f, e in zip(found, expected, strict=True))
            assert [f[2] for f in found] == [images.labels(i) for i in indices]


def test_masks_lie_on_their_images(case):
    images = case[0](**case[1])
    masks = [images.mask(i) for i in range(len(images.paths()))]
    if images.labelling is None:
        assert masks == [None] * len(masks)
        return
    for i, mask in enumerate(masks):
        assert mask is not None and np.issubdtype(mask.dtype, np.integer)
        assert mask.shape == images.open(i).size[::-1]
        assert mask.max() < 4 and {*np.unique(mask)} <= {*(images.labelling.classes or range(4))}
    assert "DemoBirds" not in str(case[0]) and len({mask.tobytes() for mask in masks}) == len(masks)


def test_the_digest_depends_on_contents_and_not_paths(case, tmp_path, monkeypatch):
    kind, arguments = case
    one = kind(**arguments).digest()
    assert one == kind(**arguments).digest() and len(one) == 64
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "tree", moved)
    monkeypatch.setenv("SAEV_CACHE", str(moved))
    there = {key: str(moved) if key in ("root", "path") else value for key, value in arguments.items()}
    assert kind(**there).digest() == one
    if kind is saev.images.HuggingFaceImages:
        change = [{"split": "test"}, {"mask_column": "", "image_column": "image"}, {"label_columns": ["label"]}]
        assert all(kind(**(there | other)).digest() != one for other in change)
        return
    path = next(path for path in moved.rglob("*") if path.suffix in (".jpg", ".png", ".JPG", ".bin"))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if path.suffix == ".bin" else b"xy"))
    assert kind(**there).digest() != one


def test_sets_can_be_pickled_before_and_after_use(case):
    images = case[0](**case[1])
    fresh = pickle.loads(pickle.dumps(images))
    used = images.digest(), images.labels(0), np.asarray(images.open(0)).tobytes()
    again = pickle.loads(pickle.dumps(images))
    for copy in (fresh, again):
        assert (copy.digest(), copy.labels(0), np.asarray(copy.open(0)).tobytes()) == used
        assert copy.labelling == images.labelling


ROOTED = [(name, key) for name, kind in SETS.items() for key in ("root", "path") if key in kind.__dataclass_fields__]


@pytest.mark.parametrize(("name", "key"), ROOTED, ids=[name for name, _ in ROOTED])
@pytest.mark.parametrize("where", [None, "missing", "empty"])
def test_no_images_names_the_key_and_the_remedy(tmp_path, monkeypatch, name, key, where):
    monkeypatch.setattr("saev.images.hub.unreachable", lambda path: "no network in tests")
    (tmp_path / "empty").mkdir()
    root = where and str(tmp_path / where)
    with pytest.raises(ValueError, match=rf"^images\.{key}[ =]") as error:
        SETS[name](**{key: root}).check()
    said = str(error.value)
    assert where is None or root in said
    assert f"images.{key}=" in said.partition(":")[2] or "another folder" in said or "give" in said


def test_a_wrong_root_one_folder_too_high_is_recognised(case, tmp_path):
    kind, arguments = case
    if kind not in (saev.images.Ade20k, saev.images.Cifar10, saev.images.FishVista, saev.images.SegmentationFolder):
        pytest.skip("it takes any names of folders")
    with pytest.raises(ValueError, match=r"images\.root=.*") as error:
        kind(**(arguments | {"root": str(Path(arguments["root"]).parent)})).check()
    assert f"did you mean images.root={arguments['root']}?" in str(error.value)
