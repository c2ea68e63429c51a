"""Imports point down the layers, frameworks stay at the top, and `import saev` is light."""

import ast
import json
import subprocess
import sys

import pytest

from docs.architecture import LAYERS, ROOT, edges, imports, modules, violations

HEAVY = ("lightning", "hydra", "omegaconf", "wandb", "faiss", "timm", "open_clip", "polars", "matplotlib", "sklearn")


def test_the_source_keeps_its_layers():
    assert not violations(imports())


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


DOOR = ("saev.config", "saev.stages", "saev.cli", "hydra_plugins")  # packages that may know Hydra's configuration
CONFIGURATION = {"DictConfig", "ListConfig", "OmegaConf", "omegaconf", "hydra"}


def configuration_below_the_door(root=ROOT) -> list[str]:
    """Every mention of Hydra's configuration classes, and every import of hydra or omegaconf, outside DOOR."""
    faults = []
    for module, path in modules(root).items():
        text = path.read_text()
        if module.startswith(DOOR) or not any(name in text for name in CONFIGURATION):
            continue
        for node in ast.walk(ast.parse(text)):
            names = {getattr(node, "id", None), getattr(node, "attr", None)}
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                names = {part for name in imported for part in name.split(".")}
            if isinstance(node, ast.Constant) and isinstance(node.value, str):  # a quoted annotation
                names = {node.value} - {"hydra", "omegaconf"}
            faults += [f"{path}:{node.lineno}: {name}" for name in sorted({*filter(None, names)} & CONFIGURATION)]
    return faults


def test_the_configuration_stops_at_the_door():
    assert configuration_below_the_door() == []


@pytest.mark.parametrize(
    "text",
    [
        "from omegaconf import DictConfig",
        "def f(cfg: DictConfig): ...",
        "def f() -> 'DictConfig': ...",
        "def f(cfg):\n    import hydra.utils",
        "import omegaconf as o\ndef f(cfg: o.OmegaConf): ...",
    ],
)
def test_a_planted_configuration_is_found(tmp_path, text):
    planted(tmp_path, {"saev/probing/x.py": text, "saev/stages/x.py": text})
    faults = configuration_below_the_door(tmp_path)
    assert faults and all("saev/probing/x.py" in fault for fault in faults)


@pytest.mark.slow
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


def test_the_front_page_names_what_there_is_on_one_screen():
    import saev

    page = (ROOT / "saev" / "__init__.pyi").read_text()
    assert len(page.splitlines()) <= 66
    assert {*saev.__all__} <= {*dir(saev)} and len(saev.__all__) == len({*saev.__all__})
    for name in saev.__all__:
        assert getattr(saev, name) is not None, name
    verbs = {"record", "train", "fit", "encode", "evaluate", "probe", "show", "convert"}
    assert verbs <= {*saev.__all__}
    listed = ast.literal_eval(page.rpartition("__all__ =")[2])
    assert {*listed} == {*saev.__all__}
