"""Our seven measures are those of the wheel `visaebench` on the same activations and dictionary: `uv sync --group peers`.

Its samples of latents are made as large as the dictionary, its limit of images per latent as the recording.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from dictionary_bench.worlds import dense_acts, linear, selection, topk

from saev.dictionary_bench.absorption import absorption
from saev.dictionary_bench.encoding import codes_by_image
from saev.dictionary_bench.json_layout import JSON, NUMBERS, write_json
from saev.dictionary_bench.localisation import localisation
from saev.dictionary_bench.measures import MEASURES
from saev.dictionary_bench.monosemanticity import TOP_IMAGES, monosemanticity
from saev.dictionary_bench.preservation import classifier, preservation
from saev.dictionary_bench.reconstruction import fvu
from saev.dictionary_bench.sparse_probe import K, sparse_probe
from saev.dictionary_bench.transfer import Other, transfer

pytest.importorskip("visaebench", reason="uv sync --group peers")
pytestmark = pytest.mark.filterwarnings("ignore")  # its own, of small classes and of NumPy

N, LABELS = 90, np.arange(90) % 3
EVERYTHING = 10**6


class Theirs:
    """A dictionary as the wheel wants it."""

    def __init__(self, dictionary):
        self.dictionary = dictionary

    @torch.no_grad()
    def encode(self, x):
        return self.dictionary.encode(x)

    @torch.no_grad()
    def decode(self, codes):
        return self.dictionary.decode(codes)


class Encoder:
    """A backbone that reads an image's number."""

    def __init__(self, embeddings: np.ndarray):
        self.embeddings = torch.from_numpy(embeddings)

    def extract_activations(self, images, layer):
        return self.embeddings[list(images)][:, None]


@pytest.fixture(scope="module", params=["topk", "sparse", "signed", "dense"])
def world(request, tmp_path_factory):
    """(dictionary, activations [images, patches, d_model], our codes of them)."""
    chosen = selection(tmp_path_factory.mktemp("vb") / "r", n_examples=N)
    build = {
        "topk": topk,
        "sparse": linear,
        "signed": lambda: linear(signed=True),
        "dense": lambda: linear(threshold=0.0),
    }
    member = build[request.param]()
    return member, dense_acts(chosen), codes_by_image({"a": member}, chosen)["a"]


def test_localisation(world):
    from visaebench.metrics.spatial_coherence.localization import FeatureLocalization

    member, acts, codes = world
    settings = dict(
        grid_size=(4, 4), min_images_per_feature=10, max_features=EVERYTHING, max_images_per_feature=EVERYTHING
    )
    theirs = FeatureLocalization(**settings).compute(Theirs(member), acts, device="cpu")
    ours = localisation(codes, min_images=10)
    assert theirs.metadata["num_features_scored"] == ours.n
    if not ours.n:
        pytest.skip("no latent has a valid map on 10 images")
    scores = np.array([np.nan if x is None else x for x in theirs.metadata["per_feature_scores"]])
    enough = ours.latents["morans_i_images"] >= 10
    assert np.allclose(scores[enough], ours.latents["morans_i"][enough], atol=1e-5)
    assert ours.value == pytest.approx(theirs.value, abs=1e-5)
    assert ours.details["fraction_not_localised"] == theirs.metadata["frac_non_localized"]


def test_fvu(world, tmp_path):
    from visaebench.metrics.reconstruction.fvu import FVU

    member, acts, _ = world
    centred = acts - acts.mean()  # else its variance is negative
    theirs = FVU().compute(Theirs(member), centred.flatten(0, 1), device="cpu")
    assert np.isfinite(theirs.value)
    assert fvu(codes_of(member, centred, tmp_path / "r")).value == pytest.approx(theirs.value, rel=1e-4)


def test_preservation(world):
    from visaebench.metrics.reconstruction.downstream import DownstreamPreservation

    member, acts, codes = world
    theirs = DownstreamPreservation().compute(Theirs(member), acts, device="cpu", labels=LABELS)
    ours = preservation(codes, classifier(codes.images, LABELS))
    assert ours.value == pytest.approx(theirs.value)
    assert ours.details["accuracy_original"] == pytest.approx(theirs.metadata["accuracy_original"])


def test_sparse_probe(world):
    from visaebench.metrics.concept_detection.sparse_probing import SparseProbing

    member, acts, codes = world
    theirs = SparseProbing().compute(Theirs(member), acts, device="cpu", labels=LABELS)
    ours = sparse_probe(codes, LABELS, k=K, ranked_on="all", permutations=0)
    assert ours.details["accuracies"] == pytest.approx(theirs.metadata["k_accuracies"])
    assert ours.value == pytest.approx(theirs.value)


def test_monosemanticity(world):
    from visaebench.metrics.concept_detection.monosemanticity import MonosemanticityScore

    member, acts, codes = world
    embeddings = np.random.default_rng(0).normal(size=(N, 12)).astype(np.float32) + 0.3
    theirs = MonosemanticityScore(max_features=EVERYTHING).compute(
        Theirs(member), acts, device="cpu", images=np.arange(N), evaluator_backbone=Encoder(embeddings)
    )
    ours = monosemanticity(codes, embeddings, top=TOP_IMAGES)
    assert ours.n == theirs.metadata["num_features_scored"]
    assert ours.value == pytest.approx(theirs.value, abs=1e-5)
    scores = ours.latents["monosemanticity"]
    assert np.allclose(scores[np.isfinite(scores)], theirs.metadata["ms_distribution"], atol=1e-4)


def test_transfer(world, tmp_path):
    from visaebench.metrics.concept_detection.cross_domain import CrossDomainGeneralization

    member, acts, codes = world
    chosen = selection(tmp_path / "r", n_examples=60, d_model=16)
    others = {"other": {"activations": dense_acts(chosen) * 0.5, "labels": LABELS[:60]}}
    theirs = CrossDomainGeneralization().compute(Theirs(member), acts, device="cpu", ood_datasets=others)
    scaled = codes_of(member, others["other"]["activations"], tmp_path / "scaled")
    ours = transfer(codes, {"other": Other(scaled, LABELS[:60])})
    numbers, expected = ours.details["other"], theirs.metadata["per_dataset"]["other"]
    assert numbers["coverage"] == pytest.approx(expected["domain_coverage"])
    assert numbers["jaccard"] == pytest.approx(expected["jaccard_overlap"])
    assert numbers["probe"] == pytest.approx(expected["probe_accuracy_k10"])
    assert ours.value == pytest.approx(theirs.value, abs=1e-5)


def codes_of(member, acts: torch.Tensor, root: Path):
    """Our codes of given activations, recorded first."""
    from saev.shards import ActivationStore, RecordingWriter
    from saev.shards.selected_tokens import Selection

    meaning = {"images": {"name": "scaled"}, "vit": {"name": "none"}}
    writer = RecordingWriter(root, meaning, len(acts), 30, (1,), {"patches": acts.shape[1]}, acts.shape[2], "float32")
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                row = {"key": f"{example}", "path": f"{example}.jpg", "grid_h": 4, "grid_w": 4}
                shard.add(example, {1: acts[example].numpy()}, row, None, None)
                shard.save_partial()
    writer.finish()
    return codes_by_image({"a": member}, Selection(ActivationStore(root), 1, np.arange(len(acts))))["a"]


def test_absorption(world):
    from visaebench.metrics.disentanglement.absorption import FeatureAbsorption

    member, acts, codes = world
    groups = {"g": {"class_indices": [0, 1, 2], "hierarchy_depth": 1}, "two": {"class_indices": [0, 1]}}
    theirs = FeatureAbsorption().compute(Theirs(member), acts, device="cpu", labels=LABELS, sibling_groups=groups)
    ours = absorption(codes, LABELS, {"g": [0, 1, 2], "two": [0, 1]}, judged_on="train", permutations=0)
    assert ours.n == theirs.metadata["num_tests"] == 3
    assert ours.value == pytest.approx(theirs.value)
    for ours_one, one in zip(ours.details["classes"], theirs.metadata["per_pair_results"], strict=True):
        assert ours_one["f1_few"] == pytest.approx(one["f1_k1"]) and ours_one["f1_many"] == pytest.approx(one["f1_k4"])
        assert ours_one["overlap"] == pytest.approx(one["overlap"])


def test_its_classes_read_our_file(tmp_path):
    from visaebench.core.results import EvalResults
    from visaebench.core.types import MetricResult

    rows = [
        {"member": member, "measure": name, "value": 0.5 if measure.better else None, "reason": None}
        | dict.fromkeys(NUMBERS, 0.1)
        for member in ("a", "b")
        for name, measure in MEASURES.items()
    ]
    write_json(tmp_path, pl.DataFrame(rows))
    content = json.loads((tmp_path / JSON).read_text())
    for one in content.values():
        read = [MetricResult(name, of, **entry) for of, part in one.items() for name, entry in part.items()]
        results = EvalResults(read)
        assert len(results) == 7 and results.to_dict() == one and "FVU" in results.summary().upper()
