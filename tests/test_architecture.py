"""What may import what, and what no source file may hold."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
ROOT = PROJECT / "src" / "verbspace"
FILES = sorted(ROOT.rglob("*.py"))
CORE = {"concepts", "video", "model"}
COMMANDS = ("cli_concepts", "cli_data", "cli_search", "cli_ship", "cli_use")
# From a part of the package to the parts that it may import, itself aside. Parts of one level are siblings.
MAY = {
    "allocation": set(),
    "placing": set(),
    "concepts": {"placing"},
    "video": {"allocation"},
    "model": {"placing"},
    "config": set(),
    "learning": {*CORE, "config", "allocation", "placing"},
    "evaluation": {*CORE, "allocation"},
    "playground": {*CORE, "placing"},
    "uses": {*CORE, "allocation", "placing", "config", "learning", "evaluation", "playground"},
    "cli": {*CORE, "placing", "config", "learning", "evaluation", "playground", "uses", *COMMANDS},
    **{group: {*CORE, "placing", "evaluation", "uses"} for group in COMMANDS},
    "__init__": {*CORE, "config", "learning", "evaluation", "uses"},  # of the face, when a name is first used
}
# Stated exceptions: (file, part, whether at module level).
EXCEPTIONS = {
    # `encode_video` takes paths as well as tensors; the import waits until there is a path.
    ("model/clips.py", "video", False),
    # An encoder is saved and loaded together with the concept set that it was adapted to.
    ("model/card.py", "concepts", True),
    ("model/encoder.py", "concepts", True),
}
MOST_LINES = 400
# Modules that a core dependency brings along, and which.
BROUGHT = {"markupsafe": "jinja2", "tokenizers": "transformers"}
NAMED_OTHERWISE = {"pyyaml": "yaml"}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
ABSOLUTE = re.compile(r"(?<![\w.:/}])/(?:work|tmp|home|root|mnt|data|var|opt|usr|Users)(?![\w-])")


def imported(tree: ast.AST) -> list[tuple[str, bool]]:
    """Full names of what is imported, and whether at module level: `from a import b` gives a.b. What only a
    type checker imports counts as well.
    """
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = {id(child) for node in ast.walk(tree) if isinstance(node, functions) for child in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        at_top = id(node) not in inside
        if isinstance(node, ast.Import):
            found += [(alias.name, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found += [(f"{node.module}.{alias.name}", at_top) for alias in node.names]
    return found


def for_types_alone(tree: ast.AST) -> set[str]:
    """Full names that only a type checker imports."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    return {
        name
        for block in blocks
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for child in block.body
        for name, _ in imported(child)
    }


def part_of(file: str) -> str:
    """concepts/space.py is in `concepts`, cli.py is `cli`."""
    return file.split("/")[0].removesuffix(".py")


def wrong_imports(file: str, tree: ast.AST) -> set[tuple[str, str, bool]]:
    """Imports of the package's own parts against the rules, in the form of EXCEPTIONS, these included."""
    part = part_of(file)
    own = {(name.split(".")[1], at_top) for name, at_top in imported(tree) if name.startswith("verbspace.")}
    return {(file, other, at_top) for other, at_top in own if other != part and other not in MAY[part]}


def unsafe_reads(tree: ast.AST) -> list[str]:
    """Ways to run code that a file brings along."""
    names = [name for name, _ in imported(tree)]
    found = [name for name in names if name.split(".")[0] in UNSAFE or name == "torch.load"]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "load":
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                found.append("torch.load")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            allowed = not (isinstance(node.value, ast.Constant) and node.value.value is False)
            found += ["allow_pickle"] * allowed
    return found


def core_modules() -> set[str]:
    """What pyproject.toml's dependencies install, by import name."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [re.split(r"[^\w-]", line)[0].lower() for line in settings["project"]["dependencies"]]
    return {NAMED_OTHERWISE.get(name, name.replace("-", "_")) for name in names}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_source_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MOST_LINES
    assert wrong_imports(name_of(path), tree) <= EXCEPTIONS
    assert not unsafe_reads(tree)
    assert not ABSOLUTE.findall(text)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_modules_import_with_the_core_alone(path: Path) -> None:
    core = core_modules()
    assert set(BROUGHT.values()) <= core
    tree = ast.parse(path.read_text(encoding="utf-8"))
    types = for_types_alone(tree)
    top = {name.split(".")[0] for name, at_top in imported(tree) if at_top and name not in types}
    assert top - {*sys.stdlib_module_names, *core, *BROUGHT, "verbspace"} == set()


def test_every_exception_is_needed() -> None:
    met = set()
    for path in FILES:
        met |= wrong_imports(name_of(path), ast.parse(path.read_text(encoding="utf-8")))
    assert met == EXCEPTIONS


def test_losses_know_torch_only() -> None:
    names = imported(ast.parse((ROOT / "learning" / "losses.py").read_text(encoding="utf-8")))
    assert {name.split(".")[0] for name, _ in names} - {"__future__"} == {"torch"}


def test_every_part_is_held_to_a_rule() -> None:
    assert {part_of(name_of(path)) for path in FILES} == set(MAY)


def test_the_rules_go_downward_only() -> None:
    """No part may be reached from what it imports."""

    def below(part: str) -> set[str]:
        return MAY[part] | {lower for other in MAY[part] for lower in below(other)}

    for part in MAY:
        assert part not in below(part)


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("concepts/space.py", "from verbspace.data.decoding.pyav import x", {("video", True)}),
        ("concepts/space.py", "from verbspace.concepts.concept_set import x", set()),
        ("concepts/space.py", "import verbspace.training.losses", {("learning", True)}),
        ("video/views.py", "def f():\n from verbspace.models import encoder", {("model", False)}),
        ("video/views.py", "class A:\n from verbspace.models import encoder", {("model", True)}),
        ("model/files.py", "if True:\n from verbspace.data.transforms import x", {("video", True)}),
        ("model/files.py", "from verbspace import cli", {("cli", True)}),
        ("learning/a.py", "from verbspace.evaluation import knn", {("evaluation", True)}),
        ("learning/a.py", "from verbspace.playground import world", {("playground", True)}),
        ("evaluation/a.py", "from verbspace.training import losses", {("learning", True)}),
        ("evaluation/a.py", "from verbspace.config.settings import X", {("config", True)}),
        ("evaluation/a.py", "from verbspace.models.video_encoder import VideoEncoder", set()),
        ("playground/a.py", "from verbspace.reporting import demo", {("uses", True)}),
        ("uses/demo.py", "from verbspace.playground import world", set()),
        ("uses/demo.py", "from verbspace.cli.main import main", {("cli", True)}),
    ],
)
def test_the_import_rule_bites(file: str, source: str, wrong: set[tuple[str, bool]]) -> None:
    assert wrong_imports(file, ast.parse(source)) == {(file, *one) for one in wrong}


def test_what_a_type_checker_imports_is_told_apart() -> None:
    tree = ast.parse("import a\nif TYPE_CHECKING:\n import b\n from c import d\nelse:\n import e\nif x:\n import f")
    assert for_types_alone(tree) == {"b", "c.d"}


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
