"""saev encode: a run's dictionaries on the recording they were trained on, told from the command line; each refusal."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from codes.test_encoding import selection
from conftest import TINY
from recordings import record
from signing import sign

from saev.codes import CodesManifest, CodeStore
from saev.codes.encoding import check_disk
from saev.saved import find_dictionaries
from saev.shards import ActivationStore
from saev.shards.merging import sidecar_path


@pytest.fixture(scope="module")
def kept():
    """A run that was trained for an earlier test."""
    return {}


@pytest.fixture
def run(cli, tiny, tmp_path, tmp_path_factory, kept) -> Path:
    """A topk and a relu SAE on layer 1, trained for two steps; all of the relu's latents may fire."""
    if not kept:
        shown = cli(
            "train", "experiment=none", *TINY, "logger=none", f"dataset={tiny}", "layer=1", "datamodule.val_fraction=0.3",
            'variants=[["sae=topk","k=4"],["sae=relu","sparsity=1e-3","seed=1"]]',
        )  # fmt: skip
        assert shown.code == 0, shown.text
        found = next((tmp_path / "outputs" / "train").glob("**/saes")).parent
        kept["run"] = shutil.copytree(found, tmp_path_factory.mktemp("kept") / "run")
        shutil.rmtree(tmp_path / "outputs")
    return shutil.copytree(kept["run"], tmp_path / "run")


def encoded(cli, *arguments) -> list[CodeStore]:
    shown = cli("encode", "device=cpu", *map(str, arguments))
    assert shown.code == 0, shown.text
    paths = [line.split()[-1] for line in shown.out.split("\n") if line.strip()]
    return [CodeStore(path) for path in paths if Path(path).is_dir()]


def member(run: Path, kind: str) -> Path:
    return next(one.path for one in find_dictionaries([str(run)]) if one.config["sparsifier"]["kind"] == kind)


def dense(run: Path, kind: str, tiny: Path, images, tokens: str = "patches") -> np.ndarray:
    store, one = (
        ActivationStore(tiny),
        next(o for o in find_dictionaries([str(run)]) if o.config["sparsifier"]["kind"] == kind),
    )
    x = torch.from_numpy(np.concatenate([store.read(1, int(e), tokens) for e in images]))
    return one.load("cpu").encode(x).numpy()


def test_a_run_is_encoded_in_one_pass_and_prints_its_directories(cli, tiny, tmp_path, run):
    stores = encoded(cli, run, f"dataset={tiny}", "dtype=float32", "latent_topk=all")
    found = find_dictionaries([str(run)])
    assert [Path(s.manifest.dictionary["path"]).name for s in stores] == [one.path.name for one in found]
    for store, one in zip(stores, found, strict=True):
        assert store.root.parent == tmp_path / "outputs" / "codes"
        wanted = dense(run, one.config["sparsifier"]["kind"], tiny, range(40))
        np.testing.assert_allclose(store.rows().dense(), wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(store.latents["frequency"], (wanted != 0).mean(0))


def test_half_precision_is_the_default(cli, tiny, run):
    (store,) = encoded(cli, member(run, "topk"), f"dataset={tiny}")
    assert store.manifest.dtype == "float16" and store.rows(0, 5).values.dtype == np.float16
    np.testing.assert_allclose(store.rows().dense(), dense(run, "topk", tiny, range(40)), rtol=1e-3, atol=1e-6)


def test_a_second_time_nothing_is_done(cli, tiny, run):
    command = (member(run, "topk"), f"dataset={tiny}")
    (store,) = encoded(cli, *command)
    before = {path.name: path.stat().st_mtime_ns for path in store.root.iterdir()}
    assert [again.root for again in encoded(cli, *command)] == [store.root]
    assert before == {path.name: path.stat().st_mtime_ns for path in store.root.iterdir()}


def test_copies_of_a_dictionary_share_their_codes(cli, tiny, run, tmp_path):
    one = member(run, "topk")
    copy = shutil.copytree(one, tmp_path / "elsewhere" / one.name)
    (store,) = encoded(cli, one, copy, f"dataset={tiny}")
    assert store.root.name.startswith("tiny-")


@pytest.mark.slow
def test_the_images_that_training_held_out_and_other_tokens(cli, tiny, run):
    one = member(run, "topk")
    (held_out,) = encoded(cli, one, f"dataset={tiny}", "examples=held_out")
    example, _ = held_out.tokens()
    assert len({*example.tolist()}) == 12 and len(held_out) == 12 * 16
    wanted = dense(run, "topk", tiny, np.unique(example))
    np.testing.assert_allclose(held_out.rows().dense(), wanted, rtol=1e-3, atol=1e-6)
    (whole,) = encoded(cli, one, f"dataset={tiny}", "tokens=cls", f"out={held_out.root.parent / 'more'}")
    assert len(whole) == 40 and whole.root.parent.name == "more" and (whole.tokens()[1] == 0).all()


@pytest.mark.slow
def test_parts_divide_the_work(cli, tiny, run):
    one = member(run, "topk")
    (whole,) = encoded(cli, one, f"dataset={tiny}")
    rows, root = whole.rows().dense(), whole.root
    shutil.rmtree(root)
    first = cli("encode", str(one), f"dataset={tiny}", "part=1/2", "device=cpu")
    assert first.code == 0 and "part 1/2 is done" in first.text and not CodesManifest.load(root).complete
    shown = cli("encode", str(one), f"dataset={tiny}", "-m", "part=0/2,1/2", "device=cpu")
    assert shown.code == 0, shown.text
    np.testing.assert_array_equal(CodeStore(root).rows().dense(), rows)


@pytest.mark.slow
def test_an_interrupted_encoding_resumes(cli, tiny, run):
    (store,) = encoded(cli, member(run, "topk"), f"dataset={tiny}")
    rows, root = store.rows().dense(), store.root
    dataclasses.replace(store.manifest, complete=False, shards=(), files={}, nnz=0).save(root)
    (root / "000001.values.npy.part").write_bytes(b"half")
    with pytest.raises(ValueError, match="run the same `saev encode` command"):
        CodeStore(root)
    (again,) = encoded(cli, member(run, "topk"), f"dataset={tiny}")
    np.testing.assert_array_equal(again.rows().dense(), rows)
    assert not list(root.glob("*.part")) and again.verify() == []


def test_what_is_left_to_encode_needs_room_and_nothing_else(cli, tiny, run, monkeypatch):
    (store,) = encoded(cli, member(run, "topk"), f"dataset={tiny}")
    dataclasses.replace(store.manifest, complete=False, shards=(), files={}, nnz=0).save(store.root)
    for i in (0, 1):
        sidecar_path(store.root, i).write_text("{}")
    usage = shutil.disk_usage(store.root)
    arguments = store.root.parent, {"it": store.manifest}, {"it": 4 / 64}, selection(tiny), (0, 1)
    monkeypatch.setattr("saev.codes.encoding.shutil.disk_usage", lambda path: usage._replace(free=160 * (8 + 6 * 4)))
    check_disk(*arguments)  # the third shard, of 160 tokens
    sidecar_path(store.root, 1).unlink()
    with pytest.raises(ValueError, match="the codes need about"):
        check_disk(*arguments)


def test_a_dictionary_is_called_by_its_folder_wherever_one_stands(run, monkeypatch):
    monkeypatch.chdir(member(run, "topk"))
    assert [one.name for one in find_dictionaries(["."])] == [Path.cwd().name]


@pytest.mark.slow
def test_dense_dictionaries_are_refused_until_one_says_what_to_keep(cli, tiny, run, tmp_path):
    one = member(run, "relu")
    weights_are_dense(one)
    shown = cli("encode", str(one), f"dataset={tiny}", "device=cpu")
    assert (
        shown.code == 1 and "is dense" in shown.err and "latent_topk=64" in shown.err and "latent_topk=all" in shown.err
    )
    assert not list((tmp_path / "outputs" / "codes").glob("*/manifest.json")), "nothing is begun"
    (few,) = encoded(cli, one, f"dataset={tiny}", "latent_topk=3")
    (whole,) = encoded(cli, one, f"dataset={tiny}", "latent_topk=all")
    assert few.nnz <= 3 * 640 < whole.nnz and few.root != whole.root
    assert few.manifest.latent_topk == 3 and whole.manifest.latent_topk == "all"


def weights_are_dense(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "dictionary.safetensors")
    weights["b_enc"] += 10
    save_file(weights, path / "dictionary.safetensors")
    sign(path)


def test_codes_beyond_float16_stop_with_the_remedy(cli, tiny, run):
    from safetensors.torch import load_file, save_file

    one = member(run, "topk")
    weights = load_file(one / "dictionary.safetensors")
    weights["w_enc"] *= 1e6
    save_file(weights, one / "dictionary.safetensors")
    sign(one)
    shown = cli("encode", str(one), f"dataset={tiny}", "device=cpu")
    assert shown.code == 1 and "beyond the range of float16" in shown.err and "dtype=float32" in shown.err
    encoded(cli, one, f"dataset={tiny}", "dtype=float32")


def test_dictionaries_of_different_recordings_are_encoded_on_their_own(cli, tiny, run, tmp_path):
    """Each on what it was trained on: two passes, and the order of the arguments in what is printed."""
    other = record(tmp_path / "outputs" / "activations" / "other", n_examples=20)
    shutil.copytree(tiny, tmp_path / "outputs" / "activations" / "tiny")
    copy = shutil.copytree(member(run, "topk"), tmp_path / "copy")
    config = copy / "config.json"
    about = json.loads(config.read_text())
    about["provenance"]["dataset"] = other.name
    config.write_text(json.dumps(about))
    sign(copy)
    stores = encoded(cli, copy, member(run, "topk"))
    assert [(s.manifest.dataset["name"], len(s)) for s in stores] == [("other", 320), ("tiny", 640)]


WRONG = {
    "nothing named": ([], ["no dictionary is named"]),
    "no such directory": (["/nowhere/run"], ["/nowhere/run is not there"]),
    "another width": (["{run}", "dataset={wide}"], ["d_model=16", "have 24"]),
    "no such layer": (["{run}", "dataset={tiny}", "layer=9"], ["layer=9"]),
    "no such tokens": (["{run}", "dataset={tiny}", "tokens=words"], ["tokens=words"]),
    "no such examples": (["{run}", "examples=none"], ["examples=none", "held_out"]),
    "no batch": (["{run}", "batch_size=0"], ["batch_size=0"]),
    "no such dtype": (["{run}", "dtype=int8"], ["dtype=int8", "float16"]),
    "no such number of codes": (["{run}", "latent_topk=0"], ["latent_topk=0", "at least 1"]),
    "yes for a number of codes": (["{run}", "latent_topk=true"], ["latent_topk=True", "at least 1"]),
    "another program's folder": (["{theirs}"], ["config.json does not describe a dictionary of saev", "saev convert"]),
    "a folder without weights": (["{half}"], ["dictionary.safetensors is missing"]),
    "a word for a number of codes": (["{run}", "latent_topk=some"], ["latent_topk=some", "all"]),
    "no such part": (["{run}", "part=4/4"], ["part=4/4: must be i/n", "e.g. part=0/8"]),
    "an incomplete recording": (["{run}", "dataset={cut}"], ["is incomplete"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_a_message_with_the_remedy(case, cli, tiny, tmp_path, run):
    places = {"tiny": tiny, "run": run, "wide": tmp_path / "wide", "cut": tmp_path / "cut"}
    for name, text in (("theirs", '{"trainer": {}}'), ("half", (member(run, "topk") / "config.json").read_text())):
        places[name] = tmp_path / name
        places[name].mkdir()
        (places[name] / "config.json").write_text(text)
    arguments, said = WRONG[case]
    if case == "another width":
        record(tmp_path / "wide", n_examples=20, d_model=24)
    if case == "an incomplete recording":
        shutil.copytree(tiny, places["cut"])
        manifest = places["cut"] / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    shown = cli("encode", "device=cpu", *(a.format(**places) for a in arguments))
    assert shown.code == 1 and "Traceback" not in shown.text
    for text in said:
        assert text in shown.err, shown.err


def test_a_full_disk_is_foreseen(cli, tiny, run, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("saev.codes.encoding.shutil.disk_usage", lambda path: usage._replace(free=1000))
    shown = cli("encode", str(member(run, "topk")), f"dataset={tiny}", "device=cpu")
    assert shown.code == 1 and "GB free, the codes need about" in shown.err and "out=/big/disk" in shown.err
