"""The package's HTML templates, filled."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("verbspace.uses"), autoescape=True, undefined=StrictUndefined)


def render(template: str, **context: Any) -> str:
    """A template by its name, every text escaped; a name that is not in the context is an error."""
    return _environment().get_template(template).render(context)
