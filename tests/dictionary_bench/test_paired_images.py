"""The score of pairs of images, on planted latents, and the pairs that are made from masks."""

import numpy as np
import polars as pl
import pytest
from PIL import Image
from scipy.sparse import csr_matrix

from saev.dictionary_bench.altered_images import painted_over, recoloured, write_pairs
from saev.dictionary_bench.comparing import measure_rows
from saev.dictionary_bench.paired_images import ImagePairs, judged, paired_images, read_pairs, resampled
from saev.dictionary_bench.shown import verdict
from saev.images import SegmentationFolder
from saev.metrics.resampling import draws


@pytest.fixture
def pairs():
    """Latent 3 is larger by 1 on the images with `red`, latent 5 lower on those with `wing`; the rest is the same but for noise."""
    rng = np.random.default_rng(0)
    base = rng.random((60, 10))
    a, b = base + rng.normal(0, 0.01, base.shape), base + rng.normal(0, 0.01, base.shape)
    a[:30, 3] += 1
    b[30:, 5] += 1
    numbers = ImagePairs(np.arange(60), np.arange(60, 120), ["red"] * 30 + ["wing"] * 30)
    return np.concatenate([a, b]), numbers


def test_planted_latents_are_chosen(pairs):
    pooled, numbers = pairs
    measured, table = paired_images(csr_matrix(pooled), numbers, n_draws=100)
    assert measured.value == 1 and measured.n == 60 and 0.3 < measured.null < 0.7
    assert table["latents"].to_list() == [[3, 3], [5, 5]] and (table["specificity"] > 0.8).all()


def test_latents_are_chosen_anew_in_each_resample(pairs):
    rng = np.random.default_rng(2)
    d, half = rng.normal(0.2, 1, (30, 12)), np.arange(30) % 2 == 0
    counts = draws(30, 150)
    found = resampled(d, half, counts)
    chosen = set()
    for n in (0, 70, 149):
        again = np.repeat(np.arange(30), counts[:, n])
        correct, (latents,) = judged(d[again], half[again], np.ones((len(again), 1)))
        assert found[n] == pytest.approx(correct.mean())
        chosen.add(tuple(latents))
    assert len(chosen) > 1


def test_groups_of_pairs_are_exchanged(pairs):
    """A dictionary that tells all pairs of one attribute apart, and one that does not: 30 groups are enough for a small p."""
    pooled, numbers = pairs
    one = ImagePairs(numbers.a[:30], numbers.b[:30], numbers.attribute[:30])
    good, bad = (
        paired_images(csr_matrix(x), one, n_draws=100, permutations=3)[0]
        for x in (pooled, np.random.default_rng(1).random(pooled.shape))
    )
    for measured in (good, bad, paired_images(csr_matrix(pooled), numbers)[0]):
        assert measured.units.mean() == pytest.approx(measured.value)
    row = measure_rows({"good": {"paired_images": good}, "bad": {"paired_images": bad}}, ["bad"]).row(0, named=True)
    assert row["p"] < 0.01 and row["p_by"] == "exchange" and verdict(row) == "better"


@pytest.mark.parametrize("line", ["a.jpg,b.jpg,", "a.jpg,a.jpg,red", ",b.jpg,red"])
def test_pairs_without_two_images_and_an_attribute_are_refused(tmp_path, line):
    file = tmp_path / "pairs.csv"
    file.write_text(f"image_a,image_b,attribute\na.jpg,b.jpg,red\n{line}\n")
    with pytest.raises(ValueError, match=r"line 3.*two different images and their attribute"):
        read_pairs(file, ["a.jpg", "b.jpg"], "birds")


def test_noise_is_at_its_null(pairs):
    noise = np.random.default_rng(1).random((120, 10))
    measured, _ = paired_images(csr_matrix(noise), pairs[1], n_draws=200)
    ends = measured.columns("paired_images")
    assert ends["paired_images_low"] < 0.5 < ends["paired_images_high"] and abs(measured.null - 0.5) < 0.1
    silent, _ = paired_images(csr_matrix((120, 10)), pairs[1])
    assert silent.value == silent.null == 0.5  # nothing differs: half right


def test_pairs_that_share_an_image_are_on_one_side():
    shared = ImagePairs(np.repeat(np.arange(24), 5), np.arange(24, 144), ["red"] * 120)
    scores = [
        paired_images(csr_matrix(np.random.default_rng(seed).random((144, 30))), shared, permutations=0)[0].value
        for seed in range(12)
    ]
    assert abs(np.mean(scores) - 0.5) < 0.06, scores  # with pairs of one image on both sides .6 to .7
    few = ImagePairs(np.repeat(np.arange(8), 5), np.arange(8, 48), ["red"] * 40)
    measured, _ = paired_images(csr_matrix(np.random.default_rng(0).random((48, 30))), few)
    assert np.isnan(measured.value)


def test_few_pairs_are_not_judged(pairs):
    few = ImagePairs(np.arange(9), np.arange(60, 69), ["red"] * 9)
    measured, table = paired_images(csr_matrix(pairs[0]), few)
    assert np.isnan(measured.value) and "10 pairs" in measured.details["reason"] and not len(table)


def test_pairs_are_read_by_name(tmp_path):
    file = tmp_path / "pairs.csv"
    pl.DataFrame({"image_a": ["x/a.jpg", "c"], "image_b": ["b.jpg", "x/a.jpg"], "attribute": ["red", "red"]}).write_csv(
        file
    )
    read = read_pairs(file, ["x/a.jpg", "x/b.jpg", "x/c.jpg"], "birds")
    assert read.a.tolist() == [0, 2] and read.b.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"b\.jpg.*not among the 1 images of birds"):
        read_pairs(file, ["x/a.jpg"], "birds")
    file.write_text("image_a,image_b\n")
    with pytest.raises(ValueError, match="no column 'attribute'"):
        read_pairs(file, [], "birds")


def test_alterations_touch_the_region_alone():
    picture = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    region = np.zeros((6, 5), bool)
    region[:3] = True
    for alter in (painted_over, recoloured):
        altered = alter(picture, region)
        assert (altered[~region] == picture[~region]).all() and (altered[region] != picture[region]).any()
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    assert recoloured(red, np.ones((2, 2), bool))[0, 0].tolist() == pytest.approx([0, 200, 200], abs=6)  # cyan


def test_pairs_are_made_from_masks(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "annotations"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(tmp_path / f"set/images/{i}.png")
        mask = np.zeros((20, 20), np.uint8)
        mask[:10], mask[0, :2] = 1, 2  # class 2 is too small
        Image.fromarray(mask).save(tmp_path / f"set/annotations/{i}.png")
    images = SegmentationFolder(root=str(tmp_path / "set"))
    table = pl.read_csv(write_pairs(images, range(12), tmp_path / "pairs", "painted_over", most=10))
    assert table["attribute"].to_list() == [0] * 10 + [1] * 10
    first = table.filter(attribute=1).row(0, named=True)
    a, b = (np.asarray(Image.open(tmp_path / "pairs/images" / first[key])) for key in ("image_a", "image_b"))
    assert (a[10:] == b[10:]).all() and len(np.unique(b[1:10].reshape(-1, 3), axis=0)) == 1
    with pytest.raises(ValueError, match="no class covers"):
        write_pairs(images, range(5), tmp_path / "few", "recoloured")
