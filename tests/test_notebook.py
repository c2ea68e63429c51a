"""examples/first_study.ipynb runs from top to bottom, here with tiny images and a tiny backbone in its parameters' cell."""

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = ROOT / "examples" / "first_study.ipynb"
TINY = """
import saev
images, vit, layer = saev.images.FolderImages("photos"), saev.vits.MicroVit(), 1
n_tokens, d_sae = 512, 512
"""


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        photo = rng.integers(0, 256, 3) * np.ones((32, 32, 1)) + rng.normal(0, 20, (32, 32, 3))
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = TINY
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()


def test_its_outputs_are_kept_and_name_no_machine(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code) and sum(bool(cell.outputs) for cell in code) >= 5
    text = NOTEBOOK.read_text()
    assert "/home/" not in text and str(ROOT) not in text and "Traceback" not in text
    assert len(text) < 1_000_000
