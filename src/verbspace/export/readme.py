"""The README of an exported folder."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_readme(manifest: dict[str, Any]) -> str:
    """What is in the folder and how to use it, with a program that runs in it as it stands. about: the content of
    `verbspace.json`."""
    environment = Environment(
        loader=PackageLoader("verbspace.export"), autoescape=False, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("readme.md.jinja").render(about=manifest, size=manifest["bytes"])
