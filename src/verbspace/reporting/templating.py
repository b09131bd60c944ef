"""The package's HTML templates, filled."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("verbspace.reporting"), autoescape=True, undefined=StrictUndefined)


def render_template(template: str, **context: Any) -> str:
    """A template by its name, every text escaped; a name that is not in the context is an error."""
    return _environment().get_template(template).render(context)


def humanize(value: Any) -> str:
    """A value as a page says it: yes or no, none, and what holds several as a row of them, with their names if any."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ([], (), {}, ""):
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{str(name).replace('_', ' ')} {humanize(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(humanize, value))
    return str(value)
