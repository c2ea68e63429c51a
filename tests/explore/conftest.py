"""A folder of outputs with two runs, codes, and results of a probe, of traits and of a contrast about one dictionary."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import saev
from saev.codes import CodeStore
from saev.explore.opened import Opened
from saev.explore.opening import Session, open_dictionary, prepare
from saev.explore.upload import Reader
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.runs.ledger import Sweep
from saev.runs.planning import Job
from saev.vits.micro import MicroVit

D_MODEL, N_LATENTS = 16, 40


@dataclasses.dataclass(kw_only=True)
class Photos(saev.images.ImageSource):
    """40 photos of solid colours."""

    name: str = "colours"
    kind = "test"

    def check(self) -> None: ...

    def paths(self) -> list[str]:
        return [f"{i}.jpg" for i in range(40)]

    def digest(self) -> str:
        return "0"

    def labels(self, index: int) -> dict[str, str | int]:
        return {}

    def open(self, index: int) -> Image.Image:
        return Image.new("RGB", (48, 48), (6 * index, 0, 90))


@torch.no_grad()
def topk(k: int) -> SparseAutoencoder:
    """Random atoms; latents 38 and 39 never fire."""
    sae = SparseAutoencoder(D_MODEL, N_LATENTS, TopK(k), Normaliser(torch.full((D_MODEL,), 2.0), torch.tensor(3.0)))
    atoms = torch.randn(N_LATENTS, D_MODEL, generator=torch.Generator().manual_seed(k))
    sae.w_dec.copy_(torch.nn.functional.normalize(atoms, dim=1))
    sae.w_enc.copy_(sae.w_dec.T)
    sae.b_enc[38:] = -1e6
    return sae.eval()


@dataclasses.dataclass(frozen=True)
class Outputs:
    """A folder of outputs."""

    root: Path
    dictionary: Path  # k=4 of the run, which has codes

    def session(self, **more) -> Session:
        return Session((self.root,), self.root / "codes", self.root / "activations", Photos(), device="cpu", **more)


@pytest.fixture(scope="session")
def outputs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """train/run with k=2 and k=4, train/sweep/0 and 1, which differ in lr, fit/base without results; codes of k=4 of the run."""
    root = tmp_path_factory.mktemp("explore") / "outputs"
    (root / "activations").mkdir(parents=True)
    (root / "activations" / tiny.name).symlink_to(tiny)
    about = {"dataset": tiny.name, "layer": 2, "token_roles": "patches"}
    settings = {"sae": "topk"}
    rows = []
    for k, nmse in ((2, 0.5), (4, 0.3)):
        saev.save_dictionary(
            topk(k), root / "train" / "run" / "saes" / f"k={k}", provenance=about, hyperparameters=settings | {"k": k}
        )
        rows.append(
            {"member": f"k={k}", "k": k, "l0": float(k), "nmse": nmse, "dead": 0.05, "dataset": tiny.name, "layer": 2}
        )
    pl.DataFrame(rows).with_columns(frequency_histogram=[[1, 2], [3, 4]]).write_parquet(
        root / "train" / "run" / "results.parquet"
    )
    jobs = {}
    for i, lr in enumerate(("1e-3", "1e-4")):
        run = root / "train" / "sweep" / str(i)
        saev.save_dictionary(topk(3), run / "saes" / "k=3", provenance=about, hyperparameters=settings | {"k": 3})
        row = {"member": "k=3", "l0": 3.0, "nmse": 0.6 - 0.2 * i, "dataset": tiny.name, "layer": 2}
        pl.DataFrame([row]).write_parquet(run / "results.parquet")
        jobs[str(i)] = Job([f"learning_rate={lr}", "layer=2"], [])
    Sweep("0", jobs).save(root / "train" / "sweep")
    saev.save_dictionary(topk(5), root / "fit" / "base", provenance=about)
    dictionary = root / "train" / "run" / "saes" / "k=4"
    (codes,) = saev.encode(str(dictionary), tiny, saev.EncodeSettings(device="cpu"), layer=2, out=root / "codes")
    assert isinstance(codes, CodeStore)
    write_results(root, dictionary)
    return Outputs(root, dictionary)


def write_results(root: Path, dictionary: Path) -> None:
    """A probe of k=4 by its name, a trait table and a contrast by its weights; each also has rows of others."""
    weights = saev.checkpoint.read_config(dictionary)["sha256"]["weights"]
    columns = ("member", "labels", "class", "latent", "sign", "ap", "ap_low")
    classes = [
        ("k=4", "true", "wing", 3, 1, 0.5, 0.4), ("k=4", "true", "tail", 3, 1, 0.9, 0.3), ("k=4", "true", "beak", 5, -1, 0.8, 0.7),
        ("k=4", "permuted", "beak", 7, 1, 0.9, 0.9), ("k=2", "true", "beak", 9, 1, 0.9, 0.9), ("k=4", "true", "none", *4 * [None]),
    ]  # fmt: skip
    traits = ("trait", "prototype", "test_ap", "ap_low", "constant_ap", "sha256", "labels", "status", "n_latents")
    of_traits = [
        ("common", 3, 0.85, 0.8, 0.84, weights, "true", "ok", 1), ("spots", 3, 0.4, 0.3, 0.1, weights, "true", "ok", 1),
        ("spots", 4, 0.4, 0.3, 0.1, "other", "true", "ok", 1), ("spots", 6, 0.4, 0.3, 0.1, weights, "permuted", "ok", 1),
    ]  # fmt: skip
    contrast = ("latent", "pair", "p_family", "q", "auroc", "sha256")
    of_contrast = [
        (3, "a/b", 0.01, 0.01, 0.9, weights),
        (3, "c/d", 0.01, 0.02, 0.05, weights),
        (8, "a/b", 0.6, 0.5, 0.6, weights),
    ]
    stability = (
        "member",
        "sha256",
        "latent",
        "others_cosine",
        "others_correlation",
        "stability_cosine",
        "stability_correlation",
    )
    of_stability = [
        ("k=4", weights, 3, 2, 2, 0.5, 1.0), ("k=4", weights, 4, 0, 3, None, 1.0), ("k=2", "other", 3, 5, 5, 1.0, 1.0),
    ]  # fmt: skip
    for name, header, rows in (
        ("evaluate/e/stability_latents", stability, of_stability),
        ("probe/p/classes", columns, classes), ("traits/t/traits", traits, of_traits), ("contrast/c/contrast", contrast, of_contrast),
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True)
        pl.DataFrame([dict(zip(header, row, strict=True)) for row in rows]).write_parquet(root / f"{name}.parquet")


@pytest.fixture(scope="session")
def opened(outputs: Outputs) -> Opened:
    """k=4 of the run."""
    one = open_dictionary(str(outputs.dictionary), outputs.session())
    assert one is not None
    return one


@pytest.fixture(scope="session")
def photographed(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Six noisy photos of a folder, recorded with a small ViT in float32, and two dictionaries with their codes: 0 of 64
    latents, 1 of 16,384."""
    root, rng = tmp_path_factory.mktemp("upload"), np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).resize((96, 80)).save(root / "photos" / f"{i}.png")
    images, vit = saev.images.FolderImages(str(root / "photos")), MicroVit()
    recording = saev.record(images, vit, layers=[2], dtype="float32", root=root / "activations")
    about = {
        "dataset": recording.name,
        "layer": 2,
        "token_roles": "patches",
        "vit": vit.identity(),
        "hook": "resid_post",
    }
    session = Session((root,), root / "codes", root / "activations", images, device="cpu", reader=Reader(vit, "cpu"))
    for seed in range(2):
        torch.manual_seed(seed)
        sae = SparseAutoencoder(32, (64, 16384)[seed], TopK(3), Normaliser(torch.zeros(32), torch.tensor(1.0))).eval()
        saev.save_dictionary(sae, root / str(seed), provenance=about)
        prepare(str(root / str(seed)), session)
    return session


@pytest.fixture(scope="session")
def recorded(photographed: Session) -> Opened:
    """Dictionary 0 of `photographed`."""
    one = open_dictionary(str(photographed.directories[0] / "0"), photographed)
    assert one is not None
    return one
