"""What is judged is every labelled token, whichever classes get rows; counts of what was judged and left out stand beside it."""

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import average_precision_score
from training.probes import D_MODEL, N_IMAGES, SIDE, image

from saev.baselines.kmeans import KMeansDictionary
from saev.nn import Normaliser
from saev.probing import ProbeSettings, probe
from saev.probing.splits import labelled_data
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.split import split_images

TRAIN, VAL = (np.sort(part) for part in split_images(np.full(N_IMAGES, SIDE**2), 0.3))
SETTINGS = ProbeSettings(nulls=(), bootstrap=50, batch_size=100)


def labelled(example: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of tests/training/probes.py; class 2 (sun) is in validation images alone, 3 (moon) in three of those."""
    acts, labels = image(example)
    labels = np.where((labels == 2) & ~np.isin(example, VAL), 0, labels).astype(np.uint16)
    if example in VAL[:3] or example in TRAIN[:4]:
        labels[:2] = 3
    return acts, labels


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ActivationStore:
    names = {"method": "majority", "classes": {"0": "sky", "1": "sea", "2": "sun", "3": "moon"}}
    root = tmp_path_factory.mktemp("judged") / "data"
    meaning = {"images": {"name": "synthetic"}, "vit": {"name": "none"}}
    writer = RecordingWriter(root, meaning, N_IMAGES, 15, (1,), {"patches": -1}, D_MODEL, "float32", labels=names)
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                acts, labels = labelled(example)
                row = {
                    "key": f"{example}",
                    "path": f"{example}.jpg",
                    "grid_h": SIDE,
                    "grid_w": SIDE,
                    "sex": "fm"[example % 2],
                    "video": f"v{example // 4}",
                }
                shard.add(example, {1: acts}, row, labels, np.ones(len(labels), np.float16))
    writer.finish()
    return ActivationStore(root)


@pytest.fixture(scope="module")
def means() -> KMeansDictionary:
    atoms = torch.from_numpy(np.random.default_rng(99).normal(size=(4, D_MODEL))).float()[:3]
    return KMeansDictionary(Normaliser(torch.zeros(D_MODEL), torch.ones(())), atoms, "inverse")


def classes(means, store, **settings) -> pl.DataFrame:
    return probe(
        {"means": means}, store, ProbeSettings(**{**vars(SETTINGS), **settings}), layer=1, device="cpu"
    ).classes


def tokens(images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [labelled(e) for e in images]
    return np.concatenate([a for a, _ in parts]), np.concatenate([y for _, y in parts]), np.repeat(images, SIDE**2)


@pytest.mark.slow
def test_precision_does_not_depend_on_the_classes_chosen_and_counts_every_labelled_token(means, store):
    every = {row["class"]: row for row in classes(means, store).to_dicts()}
    assert [*every] == ["sky", "sea", "moon"]  # sun is in no training image
    acts, y, _ = tokens(VAL)
    codes = means.encode(torch.from_numpy(acts)).numpy()
    for chosen in (("sky",), ("sea", "moon"), (1, "sky")):
        for row in classes(means, store, classes=chosen).to_dicts():
            alone = every[row["class"]]
            same = ("latent", "sign", "ap", "auroc", "f1", "iou", "n_tokens_val", "prevalence", "ap_low")
            assert {key: row[key] for key in same} == {key: alone[key] for key in same}
            assert row["r"] == pytest.approx(alone["r"], rel=1e-9)
            judged = y < 65535  # validation tokens of sun are negatives too
            positive = y[judged] == row["class_id"]
            scores = row["sign"] * codes[judged, row["latent"]]
            assert row["ap"] == pytest.approx(average_precision_score(positive, scores), abs=1e-9)
            assert row["prevalence"] == pytest.approx(positive.mean())


def test_images_and_tokens_of_each_class_are_counted(means, store):
    found = classes(means, store, nulls=("permuted",)).filter(pl.col("labels") == "true").to_dicts()
    for name, images in (("train", TRAIN), ("val", VAL)):
        _, y, image_of = tokens(images)
        for row in found:
            of_class = y == row["class_id"]
            assert row[f"n_tokens_{name}"] == of_class.sum() and row[f"n_images_{name}"] == len({*image_of[of_class]})


def test_what_was_left_out_stands_in_the_results(means, store):
    result = probe(
        {"means": means}, store, ProbeSettings(**{**vars(SETTINGS), "ignore_labels": ("sea",)}), layer=1, device="cpu"
    )
    (row,) = result.results.to_dicts()
    for name, images in (("train", TRAIN), ("val", VAL)):
        _, y, _ = tokens(images)
        assert row[f"n_tokens_{name}"] == ((y < 65535) & (y != 1)).sum() and row[f"n_images_{name}"] == len(images)
        assert row[f"n_tokens_unlabelled_{name}"] == (y == 65535).sum()
        assert row[f"n_tokens_ignored_{name}"] == (y == 1).sum()


def test_a_class_in_fewer_than_five_images_has_no_interval(means, store):
    rows = {row["class"]: row for row in classes(means, store).to_dicts()}
    assert rows["moon"]["n_images_val"] == 3 and rows["moon"]["ap"] is not None
    assert all(rows["moon"][end] is None for end in ("ap_low", "ap_high", "r_low", "r_high"))
    assert rows["sky"]["ap_low"] < rows["sky"]["ap"] < rows["sky"]["ap_high"]


def test_a_class_by_another_name_is_refused_with_those_like_it(means, store):
    with pytest.raises(ValueError, match=r"classes=\[sky,mon\]: no class is called 'mon'; did you mean moon\?"):
        classes(means, store, classes=("sky", "mon"))
    with pytest.raises(ValueError, match=r"ignore_labels=\[see\]: no class is called 'see'; did you mean sea\?"):
        classes(means, store, ignore_labels=("see",))
    with pytest.raises(ValueError, match=r"classes=\[x\]: no image has sex=x; choose among f, m"):
        classes(means, store, labels="sex", classes=("x",))


def test_chosen_values_of_a_column_have_the_other_images_as_negatives(means, store):
    both = {row["class"]: row for row in classes(means, store, labels="sex").to_dicts()}
    (one,) = classes(means, store, labels="sex", classes=("f",)).to_dicts()
    assert one["ap"] == both["f"]["ap"] and one["prevalence"] == both["f"]["prevalence"]


def test_a_table_that_misses_most_images_is_refused_and_its_matches_are_counted(means, store, tmp_path, caplog):
    table = tmp_path / "t.csv"
    table.write_text("name,bird\n1.jpg,1\n2.jpg,0\n3.jpg,1\nnot_here.jpg,1\n")
    with pytest.raises(
        ValueError, match=r"3 of the 40 images of data have a row .*1 of 4 rows are no image of it \(not_here"
    ):
        classes(means, store, labels=str(table))
    table.write_text("name,bird\n" + "".join(f"{e}.jpg,{e % 2}\n" for e in range(30)))
    with caplog.at_level("INFO"):
        result = probe(
            {"means": means}, store, ProbeSettings(**{**vars(SETTINGS), "labels": str(table)}), layer=1, device="cpu"
        )
    assert "30 of the 40 images of data have a row" in caplog.text
    (row,) = result.results.to_dicts()
    assert row["n_images_train"] + row["n_images_val"] == 30
    assert row["n_images_unlabelled_train"] + row["n_images_unlabelled_val"] == 10


def test_images_of_a_group_are_on_one_side_and_intervals_resample_groups(means, store):
    data = labelled_data(store, ProbeSettings(**{**vars(SETTINGS), "group": "video"}), 1)
    train, val = ({*(split.images // 4).tolist()} for split in data.splits)
    assert not train & val and len(train | val) == 10 and 12 <= len(data.splits[1].images) <= 15
    assert (data.splits[1].cluster == np.unique(data.splits[1].images // 4, return_inverse=True)[1]).all()
    rows = classes(means, store, group="video").to_dicts()
    assert all(
        row["ap"] is not None and row["ap_low"] is None for row in rows if row["class"] != "moon"
    )  # 3 or 4 groups are too few
    halves = classes(means, store, group="video", val_fraction=0.7).to_dicts()
    plain = classes(means, store, val_fraction=0.7).to_dicts()
    assert halves[0]["n_images_val"] >= 28 and halves[0]["ap_low"] is not None and plain[0]["ap_low"] is not None
    with pytest.raises(ValueError, match="group=vidio: data has no such column; did you mean video"):
        classes(means, store, group="vidio")
