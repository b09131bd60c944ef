"""Import directions, import cycles, and what no source file may contain."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "verbspace"
FILES = sorted(PACKAGE.rglob("*.py"))
# A package may import packages of the lines above its own, and itself. Packages of one line are independent.
LAYERS = (
    ("utils",),
    ("config",),
    ("concepts", "data"),
    ("models",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("search",),
    ("export",),
    ("reporting",),
    ("integrations", "app"),
    ("playground",),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MAX_LINES = 400
# Modules that a core dependency installs, and which.
TRANSITIVE = {"markupsafe": "jinja2", "tokenizers": "transformers"}
IMPORT_NAMES = {"pyyaml": "yaml"}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/}])/(?:work|tmp|home|root|mnt|data|var|opt|usr|Users)(?![\w-])")


def imports_of(tree: ast.AST) -> list[tuple[str, bool]]:
    """Full names of imports and whether each is at module level; `from a import b` gives `a.b`.

    Imports under TYPE_CHECKING and inside functions are included.
    """
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    nested = {id(child) for node in ast.walk(tree) if isinstance(node, functions) for child in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        at_top = id(node) not in nested
        if isinstance(node, ast.Import):
            found += [(alias.name, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found += [(f"{node.module}.{alias.name}", at_top) for alias in node.names]
    return found


def type_checking_imports(tree: ast.AST) -> set[str]:
    """Full names that are imported for the type checker only."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    return {
        name
        for block in blocks
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for child in block.body
        for name, _ in imports_of(child)
    }


def relative_name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def package_of(file: str) -> str:
    """The package of a file: `concepts/space.py` is in `concepts`."""
    return file.split("/")[0].removesuffix(".py")


def upward_imports(file: str, tree: ast.AST) -> set[str]:
    """Packages that a file imports against the order of LAYERS."""
    package = package_of(file)
    imported = {name.split(".")[1] for name, _ in imports_of(tree) if name.startswith("verbspace.")}
    known = {name for name in imported if name in RANK}
    return {name for name in known if name != package and RANK[name] >= RANK[package]}


def module_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """For each module, the modules of the package that it imports, at any place in the file."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for module, text in sources.items():
        for name, _ in imports_of(ast.parse(text)):
            parent = name.rpartition(".")[0]
            target = name if name in sources else parent
            if target in sources and target != module and target != "verbspace":
                graph[module].add(target)
    return graph


def import_cycle(graph: dict[str, set[str]]) -> list[str]:
    """One import cycle of a module graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def unsafe_reads(tree: ast.AST) -> list[str]:
    """Calls that could run code from a file."""
    names = [name for name, _ in imports_of(tree)]
    found = [name for name in names if name.split(".")[0] in UNSAFE or name == "torch.load"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "load":
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                found.append("torch.load")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            is_false = isinstance(node.value, ast.Constant) and node.value.value is False
            found += ["allow_pickle"] * (not is_false)
    return found


def core_dependencies() -> set[str]:
    """Import names of the dependencies in pyproject.toml, without extras."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [re.split(r"[^\w-]", line)[0].lower() for line in settings["project"]["dependencies"]]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_LINES
    assert not upward_imports(relative_name(path), tree)
    assert not unsafe_reads(tree)
    assert not ABSOLUTE_PATH.findall(text)


@pytest.mark.parametrize("path", FILES, ids=relative_name)
def test_modules_import_with_core_dependencies_only(path: Path) -> None:
    core = core_dependencies()
    assert set(TRANSITIVE.values()) <= core
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types = type_checking_imports(tree)
    top_level = {name.split(".")[0] for name, at_top in imports_of(tree) if at_top and name not in types}
    assert top_level - {*sys.stdlib_module_names, *core, *TRANSITIVE, "verbspace"} == set()


def test_no_modules_import_each_other() -> None:
    sources = {}
    for path in FILES:
        module = ".".join(["verbspace", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        sources[module] = path.read_text(encoding="utf-8")
    assert import_cycle(module_graph(sources)) == []


def test_losses_import_torch_only() -> None:
    names = imports_of(ast.parse((PACKAGE / "training" / "losses.py").read_text(encoding="utf-8")))
    assert {name.split(".")[0] for name, _ in names} - {"__future__"} == {"torch"}


def test_every_package_has_a_layer() -> None:
    assert {package_of(relative_name(path)) for path in FILES} == set(RANK)


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("concepts/space.py", "from verbspace.data.datasets import x", {"data"}),
        ("data/transforms.py", "def f():\n from verbspace.models import hub", {"models"}),
        ("models/hub.py", "if TYPE_CHECKING:\n from verbspace.training.trainer import x", {"training"}),
        ("cli/demo.py", "from verbspace.playground import world", set()),
    ],
)
def test_upward_imports_are_found(file: str, source: str, wrong: set[str]) -> None:
    assert upward_imports(file, ast.parse(source)) == wrong


@pytest.mark.parametrize("statement", ["import verbspace.a.y", "def f():\n from verbspace.a import y",
                                       "if TYPE_CHECKING:\n from verbspace.a.y import Y"])  # fmt: skip
def test_import_cycles_are_found(statement: str) -> None:
    direct = {"verbspace.a.x": statement, "verbspace.a.y": "from verbspace.a.x import X"}
    assert set(import_cycle(module_graph(direct))) == set(direct)
    through = {"verbspace.a.x": statement, "verbspace.a.y": "import verbspace.b.z",
               "verbspace.b.z": "from verbspace.a.x import X"}  # fmt: skip
    assert set(import_cycle(module_graph(through))) == set(through)
    assert import_cycle(module_graph({**direct, "verbspace.a.y": ""})) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from torch import load", ["torch.load"]),
        ("torch.load(path)", ["torch.load"]),
        ("np.load(path, allow_pickle=True)", ["allow_pickle"]),
        ("np.load(path, allow_pickle=False)", []),
        ("json.load(file)", []),
    ],
)
def test_unsafe_reads_are_found(source: str, found: list[str]) -> None:
    assert unsafe_reads(ast.parse(source)) == found
