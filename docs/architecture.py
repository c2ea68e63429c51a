"""The import graph of the source: its rules (tests/test_layers.py) and its picture (docs/architecture.md).

source files --ast--> imports of modules --owner--> imports of packages --> violations, cycles, table and diagram

Run `uv run python docs/architecture.py` to regenerate the page.
"""

import ast
import dataclasses
import functools
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
         "saev.annotations", "saev.saved", "saev.saved_folders", "saev.codes", "saev.scoring", "saev.interop"),
    ),
    (
        "what is done with them",
        ("saev.runs", "saev.training", "saev.evaluation", "saev.probing", "saev.visuals", "saev.trait_evaluation", "saev.taxon_map",
         "saev.contrasts", "saev.dictionary_bench", "saev.explore"),
    ),
    ("Lightning shells, reached by `_target_`", ("callbacks", "datamodules")),
    ("recipes and the front page", ("saev.recipes", "saev")),
    ("the command line", ("saev.config", "saev.stages", "saev.cli", "hydra_plugins", "train")),
)  # fmt: skip
# The lowest layer that may import a framework; None: no layer may.
FRAMEWORKS = {"lightning": 2, "pytorch_lightning": None, "hydra": 5, "omegaconf": 5}


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement: module `source` imports `target`."""

    source: str
    target: str
    where: str  # file:line


def layer_of(package: str) -> int | None:
    """The number of a package's layer; None if it is not in LAYERS."""
    return next((number for number, (_, packages) in enumerate(LAYERS) if package in packages), None)


def package_of(module: str) -> str:
    """The package (or single file) that a module belongs to.

    >>> package_of("saev.nn.bank"), package_of("callbacks.coherence"), package_of("saev")
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


@functools.cache
def imports(root: Path = ROOT) -> tuple[Import, ...]:
    """Every import statement of the source, also inside functions; `from a import b` is a.b if that is a module."""
    known = modules(root)
    return tuple(one for module, path in known.items() for one in _imports_of(module, path, known, root))


def _imports_of(module: str, path: Path, known: Mapping[str, Path], root: Path) -> Iterator[Import]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: relative to the package of the module
                parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            inside = [f"{base}.{alias.name}" for alias in node.names]
            targets = [name if name in known else base for name in inside]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(module, target, f"{path.relative_to(root)}:{node.lineno}")


def edges(imported: Sequence[Import]) -> dict[str, set[str]]:
    """The packages of this repository that each of its packages imports, without itself."""
    graph: dict[str, set[str]] = {package_of(i.source): set() for i in imported}
    first_party = {package.split(".")[0] for _, packages in LAYERS for package in packages}
    for i in imported:
        source, target = package_of(i.source), package_of(i.target)
        if target.split(".")[0] in first_party and source != target:
            graph[source].add(target)
    return graph


def violations(imported: Sequence[Import]) -> list[str]:
    """A line per violation: unknown packages, imports that point up, frameworks too far down, cycles."""
    faults = []
    graph = edges(imported)
    for package in sorted(set(graph).union(*graph.values())):
        if layer_of(package) is None:
            faults.append(f"{package} is in no layer: add it to LAYERS in docs/architecture.py")
    for i in imported:
        source, target = package_of(i.source), package_of(i.target)
        layer, target_layer = layer_of(source), layer_of(target)
        if layer is not None and target_layer is not None and target_layer > layer:
            faults.append(
                f"{i.where}: {source} (layer {layer}) imports {target} (layer {target_layer}): imports point down"
            )
        framework = i.target.split(".")[0]
        if layer is not None and framework in FRAMEWORKS:
            lowest = FRAMEWORKS[framework]
            if lowest is None or layer < lowest:
                allowed = "nowhere" if lowest is None else f"from layer {lowest} on"
                faults.append(f"{i.where}: {source} (layer {layer}) imports {framework}, allowed {allowed}")
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        faults.append(f"packages import each other: {' -> '.join(reversed(error.args[1]))}")
    return faults


def picture(root: Path = ROOT) -> str:
    """A table of all imports, and a Mermaid diagram without the edges that a path of other edges implies, in Markdown."""
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
    diagram += [
        f"  {_node(a)} --> {_node(b)}" for a in sorted(graph) for b in sorted(graph[a]) if not implied(graph, a, b)
    ]
    return "\n".join([*table, "", *diagram, "```"])


def implied(graph: Mapping[str, set[str]], source: str, target: str) -> bool:
    """Whether a path of several edges leads from source to target."""
    seen, ahead = {source}, graph[source] - {target}
    while ahead:
        seen |= ahead
        ahead = set().union(*(graph.get(package, set()) for package in ahead)) - seen
    return target in seen


def _node(package: str) -> str:
    return package.replace(".", "_")


def _about(package: str, known: Mapping[str, Path]) -> str:
    """The first sentence of the package's docstring (of its first module's where it has no __init__.py)."""
    path = known.get(package) or next(p for name, p in known.items() if package_of(name) == package)
    paragraph = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".").replace("|", "\\|")


def page(text: str, root: Path = ROOT) -> str:
    """The page with its generated part replaced by the table and diagram of the source."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{picture(root)}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
