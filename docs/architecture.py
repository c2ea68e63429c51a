"""The import graph of the source: its rules (tests/test_layers.py) and its picture (docs/architecture.md).

source files --ast--> imports of modules --owner--> imports of packages --> violations, cycles, table and diagram

Run `uv run python docs/architecture.py` to bring the picture up to date.
"""

import ast
import dataclasses
import graphlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- generated: uv run python docs/architecture.py -->", "<!-- end of the generated part -->"
SOURCES = ("saev", "callbacks", "datamodules", "hydra_plugins", "train.py")

# Imports point down or stay within a layer. `saev` itself is the front page: it names what the layers below it offer.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "files, formulas and kernels",
        ("saev.settings", "saev.files", "saev.locks", "saev.device", "saev.progress", "saev.ops", "saev.metrics", "saev.shards"),
    ),
    (
        "images, backbones and dictionaries",
        ("saev.images", "saev.vits", "saev.demo", "saev.nn", "saev.baselines", "saev.dictionary", "saev.checkpoint",
         "saev.saved", "saev.codes", "saev.interop"),
    ),
    ("what is done with them", ("saev.runs", "saev.training", "saev.evaluation", "saev.probing", "saev.visuals")),
    ("Lightning shells, reached by `_target_`", ("callbacks", "datamodules")),
    ("recipes and the front page", ("saev.recipes", "saev")),
    ("the command line", ("saev.config", "saev.stages", "saev.cli", "hydra_plugins", "train")),
)  # fmt: skip
# The lowest layer that may import a framework; None: no layer may.
FRAMEWORKS = {"lightning": 2, "pytorch_lightning": None, "hydra": 5, "omegaconf": 5}


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement: which module asks for which, and where."""

    source: str
    target: str
    where: str  # file:line


def layer_of(package: str) -> int | None:
    """The number of a package's layer; None for one that LAYERS does not know."""
    return next((number for number, (_, packages) in enumerate(LAYERS) if package in packages), None)


def package_of(module: str) -> str:
    """The package (or single file) a module counts to.

    >>> package_of("saev.nn.bank"), package_of("saev.training.bank.logging_steps"), package_of("saev")
    ('saev.nn', 'callbacks', 'saev')
    """
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "saev" else 1])


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the source by its dotted name."""
    paths = [p for name in SOURCES for p in sorted((root / name).rglob("*.py") if "." not in name else [root / name])]
    return {_dotted(path.relative_to(root)): path for path in paths if path.is_file()}


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path = ROOT) -> list[Import]:
    """Every import statement of the source, those inside functions too; `from a import b` means a.b where that is a module."""
    known = modules(root)
    return [found for module, path in known.items() for found in _imports_of(module, path, known, root)]


def _imports_of(module: str, path: Path, known: Mapping[str, Path], root: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: counted from the package that the module is in
                parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            inside = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in known else base for name in inside]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(module, target, f"{path.relative_to(root)}:{node.lineno}")


def edges(found: Sequence[Import]) -> dict[str, set[str]]:
    """Which packages of ours each of our packages imports, itself left out."""
    graph: dict[str, set[str]] = {package_of(i.source): set() for i in found}
    ours = {package.split(".")[0] for _, packages in LAYERS for package in packages}
    for i in found:
        source, target = package_of(i.source), package_of(i.target)
        if target.split(".")[0] in ours and source != target:
            graph[source].add(target)
    return graph


def violations(found: Sequence[Import]) -> list[str]:
    """What breaks the rules, a line each: unknown packages, imports that point up, frameworks too far down, cycles."""
    faults = []
    graph = edges(found)
    for package in sorted(set(graph).union(*graph.values())):
        if layer_of(package) is None:
            faults.append(f"{package} stands in no layer: add it to LAYERS in docs/architecture.py")
    for i in found:
        source, target = package_of(i.source), package_of(i.target)
        mine, theirs = layer_of(source), layer_of(target)
        if mine is not None and theirs is not None and theirs > mine:
            faults.append(f"{i.where}: {source} (layer {mine}) imports {target} (layer {theirs}): imports point down")
        framework = i.target.split(".")[0]
        if mine is not None and framework in FRAMEWORKS:
            lowest = FRAMEWORKS[framework]
            if lowest is None or mine < lowest:
                allowed = "nowhere" if lowest is None else f"from layer {lowest} on"
                faults.append(f"{i.where}: {source} (layer {mine}) imports {framework}, allowed {allowed}")
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        faults.append(f"packages import each other: {' -> '.join(reversed(error.args[1]))}")
    return faults


def picture(root: Path = ROOT) -> str:
    """The graph as a Mermaid diagram and a table, in Markdown."""
    graph, known = edges(imports(root)), modules(root)
    diagram, table = ["```mermaid", "flowchart BT"], ["| layer | package | what it is | imports |", "|---|---|---|---|"]
    for number, (title, packages) in reversed(list(enumerate(LAYERS))):
        diagram.append(f'  subgraph L{number}["{number} {title.replace("`", "")}"]')
        for package in packages:
            if package in graph:
                diagram.append(f"    {_node(package)}[{package}]")
                targets = ", ".join(f"`{target}`" for target in sorted(graph[package])) or "-"
                table.append(f"| {number} | `{package}` | {_about(package, known)} | {targets} |")
        diagram.append("  end")
    diagram += [f"  {_node(a)} --> {_node(b)}" for a in sorted(graph) for b in sorted(graph[a])]
    return "\n".join([*table, "", *diagram, "```"])


def _node(package: str) -> str:
    return package.replace(".", "_")


def _about(package: str, known: Mapping[str, Path]) -> str:
    """The first sentence of the package's docstring (of its first module's where it has no __init__.py)."""
    path = known.get(package) or next(p for name, p in known.items() if package_of(name) == package)
    paragraph = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".").replace("|", "\\|")


def page(text: str, root: Path = ROOT) -> str:
    """The page with its generated part replaced by the source's present picture."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{picture(root)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
