"""The commands and programs of the documentation: each is understood (here), and each runs (`test_docs_run.py`)."""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import verbspace
from support.doc_blocks import PAGES, ROOT, Block, read_blocks, split_verbspace
from verbspace.cli.main import app

LANGUAGES = {"bash", "python", "json", "csv", "text", "yaml"}


def blocks(language: str) -> list[object]:
    found = [block for page in PAGES for block in read_blocks(page) if block.language == language]
    return [pytest.param(block, id=f"{block.page.relative_to(ROOT)}:{block.line}") for block in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_names_its_language(page: Path) -> None:
    assert {block.language for block in read_blocks(page)} <= LANGUAGES


program = cache(lambda: get_command(app))


def parse(arguments: list[str]) -> None:
    """Parse the arguments of `verbspace` without running anything."""
    command: Any = program()
    context = command.context_class(command, info_name="verbspace")
    while commands := getattr(command, "commands", None):
        name, *arguments = arguments
        assert name in commands, f"there is no command {name!r}"
        command = commands[name]
        context = command.context_class(command, info_name=name, parent=context)
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    assert not rest, f"unexpected arguments: {rest}"
    for parameter in command.params:
        assert values.get(parameter.name) or not parameter.required, f"{parameter.name} is missing"


@pytest.mark.parametrize("block", blocks("bash"))
def test_commands_have_the_options_that_they_are_shown_with(block: Block) -> None:
    for command in block.commands():
        if arguments := split_verbspace(command):
            parse(arguments)


@pytest.mark.parametrize("block", blocks("python"))
def test_programs_import_what_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("verbspace"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vs":
            assert hasattr(verbspace, node.attr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predct", "a.mp4"], "there is no command"),
        (["predict", "a.mp4", "--encoder", "x", "--windows-length", "2"], "No such option"),
        (["predict", "--encoder", "x"], "is missing"),
    ],
)
def test_a_wrong_command_is_found(arguments: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse(arguments)
