"""What may import what, and what no source file may hold."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "verbspace"
FILES = sorted(ROOT.rglob("*.py"))
UPPER = {"learning", "evaluation", "uses", "cli"}
# From a part of the package: what it may not import at all, and what not at module level.
NEVER = {
    "concepts": {*UPPER, "video", "model"},
    "video": {*UPPER, "concepts", "model"},
    "model": UPPER,
    "learning": UPPER - {"learning"},
    "evaluation": UPPER - {"evaluation"},
    "playground": UPPER,
    "uses": {"cli"},
}
NOT_AT_TOP = {"model": {"video"}}
MOST_LINES = 400
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
ABSOLUTE = re.compile(r"(?<![\w.:/}])/(?:work|tmp|home|root|Users)(?![\w-])")


def imported(tree: ast.AST, *, top_only: bool = False) -> list[str]:
    """Full names of what is imported: `from a import b` gives a.b. Imports for type checkers only count."""
    found = []
    nodes = list(ast.walk(tree))
    if top_only:
        inside = {
            id(child)
            for node in nodes
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.walk(node)
        }
        nodes = [node for node in nodes if id(node) not in inside]
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def parts(names: list[str]) -> set[str]:
    """The package's parts among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("verbspace.")}


def wrong_imports(part: str, tree: ast.AST) -> set[str]:
    wrong = parts(imported(tree)) & NEVER.get(part, set())
    return wrong | parts(imported(tree, top_only=True)) & NOT_AT_TOP.get(part, set())


def unsafe_reads(tree: ast.AST) -> list[str]:
    """Ways to run code that a file brings along."""
    found = [name for name in imported(tree) if name.split(".")[0] in UNSAFE or name == "torch.load"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "load":
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                found.append("torch.load")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            allowed = not (isinstance(node.value, ast.Constant) and node.value.value is False)
            found += ["allow_pickle"] * allowed
    return found


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MOST_LINES
    assert not wrong_imports(path.relative_to(ROOT).parts[0].removesuffix(".py"), tree)
    assert not unsafe_reads(tree)
    assert not ABSOLUTE.findall(text)


def test_losses_know_torch_only() -> None:
    names = imported(ast.parse((ROOT / "learning" / "losses.py").read_text(encoding="utf-8")))
    assert {name.split(".")[0] for name in names} - {"__future__"} == {"torch"}


def test_every_part_is_held_to_a_rule() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders == set(NEVER)


@pytest.mark.parametrize(
    ("part", "source", "wrong"),
    [
        ("concepts", "from verbspace.video.decode import x", {"video"}),
        ("concepts", "import verbspace.learning.losses", {"learning"}),
        ("video", "def f():\n from verbspace.model import encoder", {"model"}),
        ("model", "from verbspace.video.views import x", {"video"}),
        ("model", "if True:\n from verbspace.video.views import x", {"video"}),
        ("model", "def f():\n from verbspace.video.views import x", set()),
        ("model", "from verbspace import cli", {"cli"}),
        ("learning", "from verbspace.evaluation import knn", {"evaluation"}),
        ("evaluation", "from verbspace.learning import losses", {"learning"}),
        ("evaluation", "from verbspace.model.encoder import VideoEncoder", set()),
        ("playground", "from verbspace.uses import demo", {"uses"}),
    ],
)
def test_the_import_rule_bites(part: str, source: str, wrong: set[str]) -> None:
    assert wrong_imports(part, ast.parse(source)) == wrong


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
def test_the_rule_on_reading_bites(source: str, found: list[str]) -> None:
    assert unsafe_reads(ast.parse(source)) == found


def test_the_rule_on_paths_bites() -> None:
    for text in ('"/tmp"', "'/home/me/x'", "# see /work/a", '"/tmp/a"'):
        assert ABSOLUTE.search(text), text
    for text in ('f"{folder}/work"', '"https://example.org/home"', '"a/tmp/b"', '"/workers"'):
        assert not ABSOLUTE.search(text), text
