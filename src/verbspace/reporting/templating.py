"""Rendering of the package's HTML templates."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(loader=PackageLoader("verbspace.reporting"), autoescape=True, undefined=StrictUndefined)


def render_template(template: str, **context: Any) -> str:
    """Render a template. All text is escaped. A variable that is missing in the context is an error."""
    return _environment().get_template(template).render(**context)


def humanize(value: Any) -> str:
    """Format a value as text: "yes" or "no", "none", and the items of a list or dictionary separated by commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ([], (), {}, ""):
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{str(name).replace('_', ' ')} {humanize(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(humanize, value))
    return str(value)
