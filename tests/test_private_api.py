"""Private names of other libraries in the source: each with the reason why it stays; a new one fails here."""

import ast

import pytest

from docs.architecture import ROOT, modules

# (file, name) -> why there is no public way
ALLOWED = {
    (
        "callbacks/checkpoint.py",
        "_TunerExitException",
    ): "ends a fit without validation or error; should_stop validates first",
    ("callbacks/checkpoint.py", "_signal_connector"): "received_sigterm is read-only, and Lightning would exit unsaved",
    ("callbacks/metrics_writer.py", "epoch_loop"): "trainer.validate cannot run within a fit",
    ("callbacks/metrics_writer.py", "val_loop"): "trainer.validate cannot run within a fit",
    ("hydra_plugins/saev_launchers/waiting.py", "_return_value"): "return_value of a failed job prints and raises",
    ("hydra_plugins/saev_sweeper/sweeper.py", "_return_value"): "return_value of a failed job prints and raises",
    ("saev/nn/autoencoder.py", "_load_from_state_dict"): "the override of a module that nn.Module's own code documents",
    ("saev/nn/autoencoder.py", "_save_to_state_dict"): "the override of a module that nn.Module's own code documents",
    (
        "saev/ops/sparse_gradients.py",
        "_embedding_bag_per_sample_weights_backward",
    ): "the one kernel for these gradients on a CPU",
    ("saev/probing/counts/statistics.py", "_load_from_state_dict"): "the override of a module that nn.Module documents",
    (
        "saev/training/bank/fused.py",
        "_version",
    ): "counts changes of a tensor in place, by which copies of it are kept up to date",
    ("saev/probing/counts/statistics.py", "_wrap_compute"): "torchmetrics squeezes what compute returns",
}
NAMED_TUPLE = ("_fields", "_replace", "_asdict", "_make")  # documented
LOOPS = ("epoch_loop", "val_loop", "restarting")  # Lightning's loops: not underscored, and documented as internal


def private_names(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(file, name) of underscored names that are imported, read as attributes or passed as keywords and not defined in `sources`."""
    trees = {path: ast.parse(text) for path, text in sources.items()}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    defined = {name for _, node in nodes for name in definitions(node)}
    used = {(path, name) for path, node in nodes for name in uses(node) if private(name) and name not in defined}
    inherited = {(path, node.attr) for path, node in nodes if isinstance(node, ast.Attribute) and of_super(node)}
    return used | {(path, name) for path, name in inherited if private(name)}


def private(name: str) -> bool:
    return name in LOOPS or (name.startswith("_") and not name.endswith("_") and name not in NAMED_TUPLE)


def of_super(node: ast.Attribute) -> bool:
    """Whether this is super().name, which a definition of ours does not explain."""
    return isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"


def definitions(node: ast.AST) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.arg):
        return {node.arg}
    if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        return {node.id if isinstance(node, ast.Name) else node.attr}
    if isinstance(node, ast.Call):  # self.register_buffer("_name", ...)
        return {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return set()


def uses(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.keyword):
        return {node.arg or ""}
    if isinstance(node, ast.ImportFrom):
        return {part for part in (node.module or "").split(".")} | {alias.name for alias in node.names}
    if isinstance(node, ast.Import):
        return {part for alias in node.names for part in alias.name.split(".")}
    return set()


@pytest.mark.slow
def test_private_names_of_other_libraries_are_those_listed():
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in modules().values()}
    assert private_names(sources) == {*ALLOWED}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from hydra._internal.utils import x", "_internal"),
        ("import torch\ntorch._foreach_mul(a, b)", "_foreach_mul"),
        ("job(_return_value=1)", "_return_value"),
        ("trainer.fit_loop.epoch_loop", "epoch_loop"),
        ("class A(B):\n    def _f(self):\n        super()._f()", "_f"),
        ("class A(B):\n    def f(self):\n        return self._of_b()", "_of_b"),
    ],
)
def test_a_planted_use_is_found(text, name):
    assert private_names({"x.py": text}) == {("x.py", name)}


def test_our_own_private_names_are_not_meant():
    text = "class A:\n    def _f(self, other):\n        self._x = 1\n        return other._f(), other._x, f(_target_=1)"
    assert private_names({"x.py": text}) == set()
