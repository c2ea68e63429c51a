"""saev's evaluate, encode and show from Python: the numbers of the commands, for dictionaries on disk and in memory."""

import dataclasses
import itertools
import math

import numpy as np
import polars as pl
import pytest
import torch
from codes.dictionaries import Signed
from PIL import Image
from vits.micro_recordings import recording as micro

from datamodules import ActivationDataModule
from saev.checkpoint import save_dictionary
from saev.codes.encoding import encode
from saev.codes.settings import EncodeSettings
from saev.evaluation.evaluating import evaluate
from saev.evaluation.settings import EvaluateSettings
from saev.evaluation.stability import stability
from saev.images.folder import FolderImages
from saev.nn import SparseAutoencoder, TopK
from saev.nn.initialise import initialise
from saev.recipes.trainer import provenance
from saev.saved import find_dictionaries, select_tokens, shared_passes
from saev.shards import ActivationStore
from saev.visuals.settings import ShowSettings
from saev.visuals.showing import show
from saev.vits.micro import MicroVit


def autoencoder(seed: int = 0, d_model: int = 16) -> SparseAutoencoder:
    sae = SparseAutoencoder(d_model, 32, TopK(4))
    initialise(sae, torch.randn(256, d_model, generator=torch.Generator().manual_seed(seed)), "random", seed)
    return sae.eval()


@pytest.fixture
def pair() -> dict:
    return {"a": autoencoder(0), "b": autoencoder(1)}


@pytest.fixture
def run(tmp_path, tiny, pair):
    """The pair as a run on layer 1 of the tiny recording, which says what it held out."""
    split = {"fraction": 0.3, "most_tokens": 500_000, "by_shard": False, "group": None}
    about = {"dataset": str(tiny), "layer": 1, "token_roles": "patches", "held_out": split}
    for name, sae in pair.items():
        save_dictionary(sae, tmp_path / "run" / "saes" / name, hyperparameters={"k": 4}, provenance=about)
    return tmp_path / "run"


def numbers(table: pl.DataFrame) -> pl.DataFrame:
    return table.select("member", "nmse", "l0", "dead", "coherence", "n_tokens", "correlation")


def test_evaluate_gives_the_numbers_of_the_command(cli, tiny, tmp_path, run):
    shown = cli("evaluate", str(run), f"dataset={tiny}", "device=cpu", "stability=true")
    assert shown.code == 0, shown.text
    command = {
        name: pl.read_parquet(next((tmp_path / "outputs").rglob(f"{name}.parquet")))
        for name in ("results", "stability", "stability_latents", "stability_dictionaries")
    }
    called = evaluate(run, tiny, EvaluateSettings(device="cpu", stability=True))
    assert called.results.equals(command["results"])
    assert called.stability is not None and called.stability.pairs.equals(command["stability"])
    assert called.stability.latents.equals(command["stability_latents"])
    assert called.stability.dictionaries.equals(command["stability_dictionaries"])
    alone = stability(run, tiny, EvaluateSettings(device="cpu"))
    assert alone.latents.equals(called.stability.latents) and alone.pairs["n_images"].min() > 1
    assert called.directory is None and called.files == ()


def test_dictionaries_in_memory_are_measured_as_saved_ones(tiny, tmp_path, run, pair, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = EvaluateSettings(device="cpu", examples="all")
    saved, memory = evaluate(run, ActivationStore(tiny), settings), evaluate(pair, tiny, settings, layer=1)
    assert numbers(saved.results).equals(numbers(memory.results))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"], "nothing is written"
    assert all(sae.w_enc.requires_grad for sae in pair.values())


def test_results_are_written_to_the_requested_folder(tiny, tmp_path, run):
    evaluation = evaluate(run, tiny, EvaluateSettings(device="cpu", correlation_latents=0), directory=tmp_path / "out")
    assert [path.name for path in evaluation.files] == ["results.parquet", "frontier.png"]
    assert pl.read_parquet(tmp_path / "out" / "results.parquet").equals(evaluation.results)


def test_encode_gives_the_same_codes_from_memory(tiny, tmp_path, run, pair):
    settings = EncodeSettings(device="cpu", dtype="float32", latent_topk="all")
    from_disk = encode([run / "saes" / "a"], tiny, settings, out=tmp_path / "codes")
    in_memory = encode({"a": pair["a"]}, tiny, settings, layer=1, out=tmp_path / "more")
    (x,), (y,) = from_disk, in_memory
    np.testing.assert_array_equal(x.rows().dense(), y.rows().dense())
    assert y.manifest.dictionary["path"] == "a" and x.root.name.startswith("tiny-a-")
    again = encode({"a": pair["a"]}, tiny, settings, layer=1, out=tmp_path / "more")
    assert again[0].root == y.root, "the weights say that it is the same dictionary"


def test_show_writes_a_page_of_latents_in_memory(tiny, tmp_path, pair):
    settings = ShowSettings(device="cpu", latents=(3, 1), n_images=2)
    (page,) = show(pair, tiny, settings, layer=1, directory=tmp_path / "pages")
    text = page.read_text()
    assert page == tmp_path / "pages" / "latents.html" and text.count("<b>Latent 3</b>") == 2
    row = {"labels": "true", "class": "wing", "sign": 1, "ap": 0.5, "n_images_val": 9, "prevalence": 0.1}
    classes = pl.DataFrame([{"member": "a", "latent": 5, **row}, {"member": "b", "latent": 6, **row}])
    (page,) = show(pair, tiny, ShowSettings(device="cpu"), layer=1, probe=classes, directory=tmp_path / "probed")
    text = page.read_text()
    assert all(f"<b>Latent {n}: wing, AP 0.50 [–], 9 images, 10.0 % of tokens</b>" in text for n in (5, 6))


def test_splicing_takes_dictionaries_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i:02d}.png")
    images, vit = FolderImages(root=str(tmp_path / "photos")), MicroVit()
    recording = micro(tmp_path / "photos", tmp_path / "activations", images=images, vit=vit, layers=[1]).run()
    settings = EvaluateSettings(device="cpu", examples="all", splice_images=5)
    sae = {"a": autoencoder(d_model=ActivationStore(recording).d_model)}
    evaluation = evaluate(sae, recording, settings, layer=1, images=images, vit=vit)
    assert evaluation.results["splice_images"].to_list() == [5] and evaluation.results["splice_error_cls"][0] > 0
    with pytest.raises(ValueError, match="give images= and vit="):
        evaluate(sae, recording, settings, layer=1, images=images)


# --- what is accepted


def test_intervals_are_those_of_resampling_the_images(tiny, pair):
    settings = EvaluateSettings(device="cpu", examples="all", bootstrap=40, correlation_latents=0)
    row = evaluate({"a": pair["a"]}, tiny, settings, layer=1).results.row(0, named=True)
    store = ActivationStore(tiny)
    acts = [torch.from_numpy(store.read(1, e, "patches").astype(np.float32)) for e in range(40)]
    codes = [pair["a"].encode(x) for x in acts]
    mean = torch.from_numpy(store.moments(1, "patches").mean.copy())
    nmse, l0 = [], []
    for times in np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=40):
        drawn = np.repeat(np.arange(40), times)
        error = sum((acts[e].double() - pair["a"].decode(codes[e]).double()).square().sum() for e in drawn)
        nmse.append(float(error / sum((acts[e].double() - mean).square().sum() for e in drawn)))
        l0.append(np.mean([float((codes[e] != 0).double().sum(1).mean()) for e in drawn]))
    for key, values in (("nmse", nmse), ("l0", l0)):
        low, high = np.quantile(values, [0.025, 0.975]) + row[key] - np.mean(values)
        assert row[f"{key}_low"] == pytest.approx(low, rel=1e-5) and row[f"{key}_high"] == pytest.approx(high, rel=1e-5)


def test_nmse_at_an_l0_is_interpolated_within_a_series(tiny, tmp_path):
    about = {"dataset": str(tiny), "layer": 1, "token_roles": "patches"}
    for seed, k in itertools.product((0, 1), (2, 8)):
        sae = SparseAutoencoder(16, 32, TopK(k))
        initialise(sae, torch.randn(256, 16, generator=torch.Generator().manual_seed(seed)), "random", seed)
        hyperparameters = {"sae": "topk", "k": k, "seed": seed, "bandwidth": 1.0, "l0_target": None}
        save_dictionary(sae, tmp_path / f"{seed},{k}", hyperparameters=hyperparameters, provenance=about)
    hyperparameters |= {"bandwidth": 2.0}
    save_dictionary(sae, tmp_path / "other", hyperparameters=hyperparameters, provenance=about)
    paths = [tmp_path / name for name in ("0,2", "0,8", "1,2", "1,8", "other")]
    settings = EvaluateSettings(device="cpu", correlation_latents=0, bootstrap=0, at_l0=4)
    results = evaluate(paths, tiny, settings).results
    nmse, l0 = results["nmse"].to_list(), results["l0"].to_list()
    fractions = [math.log(4 / l0[i]) / math.log(l0[i + 1] / l0[i]) for i in (0, 2)]
    expected = [nmse[i] + part * (nmse[i + 1] - nmse[i]) for i, part in zip((0, 2), fractions, strict=True)]
    assert results["nmse_at_l0"].to_list() == pytest.approx([expected[0]] * 2 + [expected[1]] * 2 + [None])
    assert "l0_target" in results.columns
    high = evaluate(paths, tiny, dataclasses.replace(settings, at_l0=64)).results
    assert high["nmse_at_l0"].null_count() == 5, "no extrapolation"


@pytest.mark.parametrize("subset_tokens", [None, 160])
def test_the_gap_is_that_to_as_many_training_images(tiny, tmp_path, pair, subset_tokens):
    data = ActivationDataModule(str(tiny), 1, 32, val_fraction=0.3, subset_tokens=subset_tokens)
    data.setup("fit")
    save_dictionary(pair["a"], tmp_path / "a", provenance=provenance(data, "none"))
    settings = EvaluateSettings(device="cpu", correlation_latents=0, bootstrap=0)
    row = evaluate(tmp_path / "a", tiny, settings).results.row(0, named=True)
    seen = sorted({int(e) for batch in iterated(data) for e in batch["example"]})
    assert len(seen) == (28 if subset_tokens is None else 10)
    images = [seen[i * len(seen) // min(12, len(seen))] for i in range(min(12, len(seen)))]
    store = ActivationStore(tiny)
    x = torch.from_numpy(np.concatenate([store.read(1, e, "patches") for e in images]).astype(np.float32))
    error = (x - pair["a"].decode(pair["a"].encode(x))).square().sum() / (x - x.mean(0)).square().sum()
    assert row["nmse_train"] == pytest.approx(float(error), rel=1e-5)
    assert row["gap"] == pytest.approx(row["nmse"] - row["nmse_train"])
    everything = evaluate(tmp_path / "a", tiny, dataclasses.replace(settings, examples="all")).results
    assert "gap" not in everything.columns, "training images are among them"


def iterated(data):
    stream = data.stream(data.train_examples)
    return stream.batches(0, stream.n_batches)


def test_paths_and_saved_dictionaries_are_accepted_alone_and_in_lists(run):
    both = find_dictionaries(run)
    assert [one.name for one in both] == ["a", "b"]
    assert [one.name for one in find_dictionaries(both[0])] == ["a"]
    assert find_dictionaries([both[1], run]) == [both[1], both[0]], "each once"


def test_the_same_tokens_share_a_pass(tiny, run):
    one, other = find_dictionaries(run)
    selections = {
        "a": select_tokens(one, tiny),
        "b": select_tokens(other, tiny),
        "c": select_tokens(one, tiny, layer=2),
    }
    assert shared_passes(selections) == [["a", "b"], ["c"]]
    assert len(selections["a"].images) == 12 and len(select_tokens(one, tiny, examples="all").images) == 40


@pytest.mark.parametrize(
    ("trained_on", "n_images"),
    [
        ({"dataset_fingerprint": "another"}, 40),  # nothing of it was trained on
        ({"dataset_fingerprint": "another", "images": {"name": "other"}}, 40),
        ({"dataset_fingerprint": "another", "images": None}, 40),
        ({"dataset_fingerprint": "another", "images": "these"}, 12),  # other layers of the same images
        ({"dataset_fingerprint": "this"}, 12),
        ({}, 12),  # not known: as if it was trained on them
    ],
)
def test_images_that_were_not_trained_on_are_all_held_out(tiny, run, trained_on, n_images):
    one, manifest = find_dictionaries(run)[0], ActivationStore(tiny).manifest
    known = {"this": manifest.fingerprint, "these": manifest.meaning["images"]}
    origin = {key: known.get(value, value) if isinstance(value, str) else value for key, value in trained_on.items()}
    kept = {key: value for key, value in one.provenance.items() if key not in ("dataset_fingerprint", "images")}
    one = dataclasses.replace(one, config={**one.config, "provenance": {**kept, **origin}})
    assert len(select_tokens(one, tiny, layer=1).images) == n_images


@pytest.mark.parametrize(
    ("dictionaries", "arguments", "message"),
    [
        ([], {}, "no dictionary is named"),
        ({"a": autoencoder()}, {}, "a does not say on which layer it was trained: give layer="),
        ({"a": autoencoder(d_model=8)}, {"layer": 1}, "a has d_model=8, the activations of tiny have 16"),
        ({"a": autoencoder()}, {"layer": 1, "settings": EvaluateSettings(stability=True)}, "at least two dictionaries"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, dictionaries, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(dictionaries, tiny, **arguments)


def test_a_dictionary_that_does_not_say_its_recording_needs_one():
    with pytest.raises(ValueError, match="a does not say what it was trained on"):
        evaluate({"a": autoencoder()}, layer=1)


def test_other_objects_cannot_be_encoded_without_their_files(tiny):
    with pytest.raises(ValueError, match="x is a Signed: only saev's autoencoders and baselines"):
        encode({"x": Signed()}, tiny, EncodeSettings(device="cpu"), layer=1)


def test_evaluate_compares_with_a_dictionary_over_the_same_images(tiny, pair):
    store = ActivationStore(tiny)
    settings = EvaluateSettings(examples="all", against="b", gap=False, bootstrap=200, permutations=200)
    first, second = evaluate(pair, store, settings, layer=1).results.to_dicts()
    assert first["diff_nmse"] == pytest.approx(first["nmse"] - second["nmse"], abs=1e-6)
    assert first["diff_nmse_low"] < first["diff_nmse"] < first["diff_nmse_high"]
    assert 1 / 201 <= first["p_nmse"] <= 1 and first["diff_l0"] == pytest.approx(0)
    assert second["diff_nmse"] is None and second["p_nmse"] is None
    with pytest.raises(ValueError, match=r"against=c is no row's name.*a, b"):
        evaluate(pair, store, EvaluateSettings(against="c"), layer=1)
