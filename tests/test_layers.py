"""Imports point down the layers, frameworks stay at the top, and `import saev` is light."""

import json
import subprocess
import sys

import pytest

from docs.architecture import LAYERS, ROOT, edges, imports, modules, violations

HEAVY = ("lightning", "hydra", "omegaconf", "wandb", "faiss", "timm", "open_clip", "polars", "matplotlib", "sklearn")

PENDING = {
    "saev/recipes/results.py:10: saev.recipes (layer 4) imports omegaconf, allowed from layer 5 on",
    "saev/recipes/train.py:11: saev.recipes (layer 4) imports hydra, allowed from layer 5 on",
    "saev/recipes/train.py:14: saev.recipes (layer 4) imports omegaconf, allowed from layer 5 on",
    "saev/recipes/train.py:18: saev.recipes (layer 4) imports saev.config (layer 5): imports point down",
    "saev/recipes/train.py:19: saev.recipes (layer 4) imports saev.config (layer 5): imports point down",
    "packages import each other: saev.config -> saev.recipes -> saev.config",
}


def test_the_source_keeps_its_layers():
    assert {*violations(imports())} <= PENDING


def test_the_graph_is_that_of_the_source():
    graph = edges(imports())
    assert "saev.shards" in graph["datamodules"] and "saev.training" in graph["callbacks"]
    upper = ("saev.recipes", "saev.config", "saev.stages")
    assert not any({"callbacks", "datamodules"} & graph[p] for p in graph if p.startswith("saev") and p not in upper)
    assert len(modules()) > 50 and all(path.suffix == ".py" for path in modules().values())


def planted(root, files):
    for package in {p for _, packages in LAYERS for p in packages}:  # an empty copy of the layout
        folder = root / package.replace(".", "/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return violations(imports(root))


PLANTED = {
    "upwards": ({"saev/ops/x.py": "from saev.nn import bank"}, "imports point down"),
    "upwards, by its parent": ({"saev/ops/x.py": "from saev import nn"}, "imports point down"),
    "upwards, inside a function": ({"saev/nn/x.py": "def f():\n    import saev.training"}, "imports point down"),
    "upwards, relative": ({"saev/shards/x.py": "from ..nn import bank"}, "imports point down"),
    "a callback from the library": ({"saev/training/x.py": "import callbacks"}, "imports point down"),
    "lightning below layer 2": ({"saev/nn/x.py": "import lightning as L"}, "allowed from layer 2"),
    "the other lightning": ({"saev/training/x.py": "import pytorch_lightning"}, "allowed nowhere"),
    "hydra below layer 5": ({"callbacks/x.py": "from hydra.utils import instantiate"}, "allowed from layer 5"),
    "a circle": ({"saev/ops/x.py": "import saev.metrics", "saev/metrics/x.py": "import saev.ops"}, "each other"),
    "the front page from below": ({"saev/nn/x.py": "import saev"}, "imports point down"),
    "an unknown package": ({"saev/misc/x.py": "import saev.ops"}, "is in no layer"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_violation_is_caught(case, tmp_path):
    files, message = PLANTED[case]
    found = planted(tmp_path, files)
    assert found and all(message in fault for fault in found), found


def test_a_tree_in_order_has_no_violation(tmp_path):
    files = {
        "callbacks/x.py": "import lightning\nfrom saev.training import y",
        "saev/training/y.py": "import torch\nimport lightning\nfrom saev import nn",
        "saev/stages/z.py": "import hydra, callbacks, datamodules",
        "saev/metrics/x.py": "from ..ops import y",
    }
    assert planted(tmp_path, files) == []


def test_importing_saev_loads_no_framework():
    script = (
        "import json, sys, time; import torch; t0 = time.perf_counter(); import saev; saev.load, saev.SAEBank; "
        "seconds = time.perf_counter() - t0; print(json.dumps([seconds, sorted(sys.modules)]))"
    )
    # one thread and a fresh interpreter; the bound is loose (0.1 s on an idle core), the module list is the point
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    seconds, loaded = json.loads(out)
    assert not set(HEAVY) & {name.split(".")[0] for name in loaded}
    assert seconds < 5, f"import saev took {seconds:.1f} s beyond torch"
