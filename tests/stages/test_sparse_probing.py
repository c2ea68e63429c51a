"""k-sparse and image-level probes as the stage makes them: rows against fits by hand, reasons for what cannot be fitted."""

import contextlib
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from tables import expected_precision

from saev.codes.pairs import from_dense
from saev.metrics.resampling import draws
from saev.probing.labels import Classes, ImageLabels, TokenLabels
from saev.probing.passes import CodeBatch, Encoder
from saev.probing.permuted import PermutedLabels
from saev.probing.settings import SparseSettings
from saev.probing.sparse.codes import TokenSample
from saev.probing.sparse.linear_fits import ridge_fit, standardised
from saev.probing.sparse.probing import sparse_probing
from saev.probing.sparse.references import RAW, UNTRAINED, references
from saev.probing.splits import TRUE, LabelledData, Split
from saev.shards import ActivationStore, RecordingWriter

N, TOKENS, LATENTS = 60, 16, 10
TRAIN, VAL = np.arange(20, N), np.arange(20)
CLASSES = Classes((0, 1, 2, 7, 9), ("other", "union", "seven", "trained alone", "validated alone"))
SETTINGS = {
    "levels": ("token", "image"), "k": (1, 2), "selection": "greedy", "candidates": 4, "tokens": 10**6,
    "pooling": ("max", "mean"), "ridges": (0.01, 1.0), "budget_gib": 1, "seed": 0,
}  # fmt: skip


def image(example: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [16, 10], which are the activations, and labels: class 1 is latent 1 or 4, class 2 latent 7, both not always."""
    rng = np.random.default_rng(example)
    density = np.where(rng.random(LATENTS) < 0.5, 0.3, 0.02)  # a latent is in half of the images
    acts = np.where(rng.random((TOKENS, LATENTS)) < density, 0.2 + rng.exponential(size=(TOKENS, LATENTS)), 0)
    labels = np.select([acts[:, [1, 4]].any(1), acts[:, 7] > 0], [1, 2], 0)
    labels = np.where(rng.random(TOKENS) < 0.1, rng.integers(0, 3, TOKENS), labels)
    labels[rng.random(TOKENS) < 0.1] = 65535
    if example % 4 == 0:
        labels[0] = 7 if example >= 20 else 9
    return acts.astype(np.float32), labels.astype(np.uint16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("sparse") / "data"
    meaning = {"images": {"name": "synthetic"}, "vit": {"name": "none"}}
    writer = RecordingWriter(
        root, meaning, N, 15, (1,), {"patches": -1}, LATENTS, "float32", labels={"method": "majority", "classes": {}}
    )
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                acts, labels = image(example)
                row = {"key": f"{example}", "path": f"{example}.jpg", "grid_h": 4, "grid_w": 4}
                shard.add(example, {1: acts}, row, labels, np.ones(TOKENS, np.float16))
    writer.finish()
    return ActivationStore(root)


class Plain:
    """A dictionary whose codes are some columns of the activations."""

    def __init__(self, columns):
        self.columns, self.atoms = columns, torch.eye(LATENTS)[columns]
        self.d_model, self.n_latents = LATENTS, len(columns)

    def encode(self, acts):
        return acts[:, self.columns]

    def decode(self, codes):
        return codes @ self.atoms


MEMBERS = {"plain": Plain(list(range(LATENTS))), "turned": Plain(list(range(LATENTS))[::-1])}


def labelled(store, labels=None, classes=CLASSES):
    labels = labels or TokenLabels(store, 1, classes)
    splits = (Split(name, store, 1, i, "patches", {TRUE: labels}) for name, i in (("train", TRAIN), ("val", VAL)))
    return LabelledData(tuple(splits), classes.ids, classes.names)


def probe(store, data=None, sources=None, batch_size=100, **own):
    sources = sources or [Encoder(MEMBERS, batch_size, None)]
    return sparse_probing(SparseSettings(**SETTINGS | own), data or labelled(store), sources)


@pytest.fixture(scope="module")
def found(store):
    return probe(store)


def test_one_progress_bar_counts_the_fits_of_all_dictionaries_and_levels(store, monkeypatch):
    bars = []

    @contextlib.contextmanager
    def counting(what, total):
        bars.append([what, total, 0])
        yield lambda n: bars[-1].__setitem__(2, bars[-1][2] + n)

    monkeypatch.setattr("saev.probing.sparse.probing.bar", counting)
    probe(store, levels=("token", "image"), pooling=("mean", "max"), ridges=())
    (what, total, done) = bars[0]
    assert len(bars) == 1 and what == "Sparse probes" and done == total == len(MEMBERS) * (1 + 2) * len(CLASSES.ids)


def row_of(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def tokens(images):
    acts, labels = (np.concatenate(parts) for parts in zip(*(image(int(e)) for e in images), strict=True))
    return acts[labels < 65535].astype(np.float64), labels[labels < 65535]


def pooled(images, by):
    """Codes of all tokens, and whether any token is of a class."""
    acts = np.stack([by(image(int(e))[0].astype(np.float64), 0) for e in images])
    return acts, np.array([[id in image(int(e))[1] for id in CLASSES.ids] for e in images])


def test_there_is_a_row_for_each_dictionary_level_pooling_k_and_class(found):
    rows, totals = found
    kinds = [("token", None, k) for k in (1, 2)]
    kinds += [("image", pooling, k) for pooling in ("max", "mean") for k in (1, 2, None)]
    expected = [(member, *kind) for member in MEMBERS for kind in kinds]
    assert [(t["member"], t["level"], t["pooling"], t["k"]) for t in totals] == expected
    assert len(rows) == len(expected) * len(CLASSES)
    assert {row["selection"] for row in rows if row["k"]} == {"greedy"}
    assert {row["selection"] for row in rows if not row["k"]} == {None}
    assert len(pl.DataFrame(rows, infer_schema_length=None)) == len(rows)


def test_a_union_takes_its_two_latents_and_one_of_them_alone_is_worse(found):
    rows, totals = found
    one, two = (row_of(rows, member="plain", level="token", k=k, class_id=1) for k in (1, 2))
    assert sorted(two["latents"]) == [1, 4] and set(one["latents"]) < {1, 4}
    assert two["ap"] > one["ap"] + 0.1 and two["ce"] < one["ce"] and two["converged"]
    turned = row_of(rows, member="turned", level="token", k=2, class_id=1)
    assert sorted(9 - i for i in turned["latents"]) == [1, 4] and turned["ap"] == pytest.approx(two["ap"])
    assert totals[1]["r"] > totals[0]["r"]


def test_the_selections_agree_on_what_is_there(store, found):
    rows, _ = probe(store, selection="l1", levels=("token",))
    for k in (1, 2):
        l1, greedy = (row_of(r, member="plain", level="token", k=k, class_id=1) for r in (rows, found[0]))
        assert sorted(l1["latents"]) == sorted(greedy["latents"]) and l1["selection"] == "l1"
        assert l1["ce"] == pytest.approx(greedy["ce"])


def test_token_rows_are_scikit_learns_by_hand(found):
    row = row_of(found[0], member="plain", level="token", k=2, class_id=1)
    (x, y), (val, truth) = tokens(TRAIN), tokens(VAL)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(x[:, row["latents"]], y == 1)
    p = model.predict_proba(val[:, row["latents"]])[:, 1]
    assert row["ap"] == pytest.approx(expected_precision(truth == 1, p))
    assert row["ce"] == pytest.approx(log_loss(truth == 1, p), rel=1e-5)
    assert row["prevalence"] == (truth == 1).mean() and row["n_rows_train"] == (y == 1).sum()
    assert row["ce_prevalence"] == pytest.approx(log_loss(truth == 1, np.full(len(truth), (truth == 1).mean())))


@pytest.mark.parametrize(("pooling", "by"), [("max", np.max), ("mean", np.mean)])
def test_image_rows_are_fits_to_codes_pooled_by_hand(found, pooling, by):
    (x, y), (val, truth) = pooled(TRAIN, by), pooled(VAL, by)
    c = CLASSES.ids.index(2)
    one = row_of(found[0], member="plain", level="image", pooling=pooling, k=1, class_id=2)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(x[:, one["latents"]], y[:, c])
    p = model.predict_proba(val[:, one["latents"]])[:, 1]
    assert one["ap"] == pytest.approx(expected_precision(truth[:, c], p))
    assert one["ce"] == pytest.approx(log_loss(truth[:, c], p), rel=1e-4)
    every = row_of(found[0], member="plain", level="image", pooling=pooling, k=None, class_id=2)
    train, other = standardised(csr_array(x), csr_array(val))
    fit, ridge = ridge_fit(train, y[:, c], SETTINGS["ridges"], SETTINGS["seed"], np.arange(len(x)))
    assert every["ridge"] == ridge and every["latents"] is None
    assert every["ap"] == pytest.approx(expected_precision(truth[:, c], fit.logits(other)))
    assert every["ce"] == pytest.approx(log_loss(truth[:, c], 1 / (1 + np.exp(-fit.logits(other)))), rel=1e-4)


def test_classes_without_training_or_validation_rows_have_a_reason_and_no_numbers(found):
    rows, totals = found
    for level in ("token", "image"):
        for id, reason in ((7, "no validation row is of the class"), (9, "no training row is of the class")):
            own = [row for row in rows if row["level"] == level and row["class_id"] == id]
            assert own and all(row["reason"] == reason for row in own)
            assert all(row[key] is None for row in own for key in ("latents", "ap", "ce", "converged", "train_ce"))
    assert {total["n_classes"] for total in totals if total["level"] == "token"} == {3}


def test_a_class_that_all_training_images_have_cannot_be_fitted(found):
    _, y = pooled(TRAIN, np.max)
    assert y[:, 0].all()
    row = row_of(found[0], member="plain", level="image", pooling="max", k=1, class_id=0)
    assert row["reason"] == "all training rows are of the class"


def test_summaries_are_over_the_classes_with_a_probe(found):
    rows, totals = found
    total = row_of(totals, member="plain", level="token", k=2)
    own = [r for r in rows if (r["member"], r["level"], r["k"]) == ("plain", "token", 2) and r["reason"] is None]
    assert total["map"] == pytest.approx(np.mean([row["ap"] for row in own]))
    assert total["r"] == pytest.approx(1 - sum(r["ce"] for r in own) / sum(r["ce_prevalence"] for r in own))
    assert total["unconverged"] == 0


@pytest.mark.slow
def test_neither_batches_nor_other_images_tokens_change_a_row(store, found):
    class Everything:
        """Batches of all images, as codes on disk come."""

        names = ("plain",)

        def n_batches(self, split):
            return N

        def batches(self, split, start):
            for example in range(start, N):
                codes = from_dense(torch.from_numpy(image(example)[0]))
                yield CodeBatch({"plain": codes}, np.full(TOKENS, example), np.arange(TOKENS))

    rows, _ = probe(store, sources=[Everything()])
    expected = [row for row in found[0] if row["member"] == "plain"]
    for row, other in zip(rows, expected, strict=True):
        assert row["latents"] == other["latents"] and row["reason"] == other["reason"]
        assert (row["ce"] is None) == (other["ce"] is None)
        assert row["ce"] is None or row["ce"] == pytest.approx(other["ce"], rel=1e-4)


def test_labels_of_images_are_taken_as_they_are(store):
    table = np.stack([[image(e)[0][:, 3].max() > 2.5, image(e)[0][:, 5].mean() > 0.25] for e in range(N)])
    data = labelled(store, ImageLabels(table), Classes((0, 1), ("peak", "much")))
    rows, _ = probe(store, data, levels=("image",), k=(1,), ridges=())
    for id, latent, better in ((0, 3, "max"), (1, 5, "mean")):
        ap = {row["pooling"]: row["ap"] for row in rows if row["class_id"] == id and row["member"] == "plain"}
        row = row_of(rows, member="plain", pooling=better, class_id=id)
        assert row["latents"] == [latent] and row["n_rows_train"] == table[TRAIN, id].sum()
        assert ap[better] == pytest.approx(1) and min(ap.values()) < 0.999
    assert {row["k"] for row in rows} == {1}


@pytest.mark.slow
def test_raw_activations_untrained_directions_and_permuted_labels_have_rows_of_images(store):
    """Each image has one class, that of its strongest of three latents; a linear probe on pooled activations sees it."""
    table = np.array([image(e)[0].mean(0)[[1, 4, 7]].argmax() for e in range(N)])
    labels, classes = ImageLabels(table, 3), Classes((0, 1, 2), ("one", "four", "seven"))
    stored, drawn = store.tokens_per_image(1), draws(len(VAL), 100, 0)
    splits = (
        Split(name, store, 1, i, "patches", {TRUE: labels, "permuted": PermutedLabels(labels, i, stored, 0)})
        for name, i in (("train", TRAIN), ("val", VAL))
    )
    data, sources = LabelledData(tuple(splits), classes.ids, classes.names), [Encoder(MEMBERS, 100, None)]
    compared = references(sources, {"plain": LATENTS, "turned": LATENTS}, data.splits[0], 100, 0, "cpu")
    settings = SparseSettings(**SETTINGS | {"k": (1,), "pooling": ("mean",), "tokens": 200})
    rows, totals = sparse_probing(settings, data, sources, compared, drawn)
    members = ["plain", "turned", RAW, UNTRAINED]
    assert {(t["member"], t["labels"]) for t in totals if t["level"] == "image"} == {
        *product(members, (TRUE, "permuted"))
    }
    assert {(t["member"], t["labels"]) for t in totals if t["level"] == "token"} == {("plain", TRUE), ("turned", TRUE)}
    raw = row_of(totals, member=RAW, labels=TRUE, level="image", k=None)
    (x, _), (val, _) = pooled(TRAIN, np.mean), pooled(VAL, np.mean)
    moments = store.moments(1)
    (x, val), truth = standardised(*(csr_array((a - moments.mean) / moments.scale) for a in (x, val))), table[VAL]
    every = np.arange(len(TRAIN))
    logits = np.stack(
        [ridge_fit(x, table[TRAIN] == c, SETTINGS["ridges"], 0, every)[0].logits(val) for c in range(3)], 1
    )
    assert raw["accuracy"] == pytest.approx((logits.argmax(1) == truth).mean()) and raw["accuracy"] > 0.6
    accuracies = np.array([(logits.argmax(1) == truth)[np.repeat(np.arange(len(VAL)), one)].mean() for one in drawn.T])
    low, high = np.quantile(accuracies, [0.025, 0.975]) + raw["accuracy"] - accuracies.mean()
    assert (raw["accuracy_low"], raw["accuracy_high"]) == pytest.approx((max(low, 0), min(high, 1)), abs=1e-6)
    row = row_of(rows, member=RAW, labels=TRUE, level="image", k=None, class_id=1)
    assert row["ap"] == pytest.approx(expected_precision(truth == 1, logits[:, 1]), rel=1e-3)
    drawn_images = [np.repeat(np.arange(len(VAL)), one) for one in drawn.T]
    own = [expected_precision((truth == 1)[i], logits[i, 1]) for i in drawn_images if (truth[i] == 1).any()]
    low, high = np.quantile(own, [0.025, 0.975]) + row["ap"] - np.mean(own)
    assert (row["ap_low"], row["ap_high"]) == pytest.approx((max(low, 0), min(high, 1)), abs=0.02)
    null = row_of(totals, member=RAW, labels="permuted", level="image", k=None)
    assert null["map"] < raw["map_low"] < raw["map"] < raw["map_high"] and null["accuracy"] < raw["accuracy"] - 0.2
    assert row_of(totals, member=UNTRAINED, labels=TRUE, level="image", k=None)["map"] > null["map"]


def test_images_without_a_labelled_token_are_left_out(store):
    only = Classes((7, 9), ("trained alone", "validated alone"))  # all other labels are ignored
    labels = TokenLabels(store, 1, only, ignore=[id for id in range(20) if id not in only.ids])
    rows, _ = probe(store, labelled(store, labels, only), levels=("image",), k=(1,))
    assert {row["n_rows_train"] for row in rows if row["class_id"] == 7} == {len(TRAIN) // 4}
    assert {row["reason"] for row in rows if row["class_id"] == 7} == {"all training rows are of the class"}


def test_a_sample_takes_as_many_labelled_tokens_of_every_image(store):
    split = labelled(store).splits[0]
    sample = TokenSample(split, 3 * len(TRAIN), seed=0)
    example, token = sample.key >> 32, sample.key & 0xFFFFFFFF
    assert (np.bincount(example)[TRAIN] == 3).all() and len(example) == 3 * len(TRAIN)
    assert [*sample.labels] == [CLASSES.ids.index(image(e)[1][t]) for e, t in zip(example, token, strict=True)]
    few = TokenSample(split, 10, seed=0)
    assert len(np.unique(few.key >> 32)) == 10


def test_codes_beyond_the_budget_are_an_error(store):
    with pytest.raises(ValueError, match=r"sparse.budget_gib=1e-05: .*lower sparse.tokens"):
        probe(store, budget_gib=1e-5)


WRONG = {
    "levels": (("pixel",), r"sparse.levels=\[pixel\]: choose token or image"),
    "pooling": (("median",), r"sparse.pooling=\[median\]: choose max or mean"),
    "selection": ("best", "sparse.selection=best: choose l1 or greedy"),
    "k": ((4, 0), r"sparse.k=\[4,0\]: must be at least 1"),
    "ridges": ((0.0,), r"sparse.ridges=\[0.0\]: must be above 0"),
    "candidates": (0, "sparse.candidates=0: must be at least 1"),
    "tokens": (1, "sparse.tokens=1: must be at least 2"),
    "budget_gib": (0, "sparse.budget_gib=0: must be above 0"),
}


@pytest.mark.parametrize("key", WRONG)
def test_bad_values_are_refused_by_name(key):
    value, message = WRONG[key]
    with pytest.raises(ValueError, match=message):
        SparseSettings(**SETTINGS | {key: value})


def test_nothing_to_fit_is_refused():
    with pytest.raises(ValueError, match=r"sparse.k=\[\] leaves nothing to fit"):
        SparseSettings(levels=("token",), k=())
    SparseSettings(levels=("image",), k=())
    for wrong, message in (({"k": (1, 1)}, "different numbers"), ({"pooling": ()}, r"pooling=\[\]: choose")):
        with pytest.raises(ValueError, match=message):
            SparseSettings(**wrong)
