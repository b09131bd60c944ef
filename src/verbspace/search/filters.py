"""SQL filters over the columns of an index."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def sql_quote(text: str) -> str:
    """Return a text as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def path_in(paths: Sequence[str]) -> str:
    """Return a filter that selects the rows of the given files."""
    return f"path IN ({', '.join(sql_quote(path) for path in paths)})"


def path_glob_filter(pattern: str) -> str:
    """Return a filter for paths that contain a pattern: `*` is any text, `?` is any character."""
    wildcards = {"*": ".*", "?": "."}
    regex = "".join(wildcards.get(character) or re.escape(character) for character in pattern)
    # The leading ".*" keeps Lance from converting a plain text to LIKE, which reads backslashes differently.
    return f"regexp_like(path, {sql_quote('.*' + regex)})"


def combine_filters(
    where: str | None = None,
    path: str | None = None,
    min_duration: float | None = None,
    max_duration: float | None = None,
) -> str | None:
    """Join an SQL condition, a pattern for the path, and the shortest and longest video (in seconds) with AND."""
    conditions = [f"({where})"] if where is not None else []
    conditions += [path_glob_filter(path)] if path else []
    for name, operator, seconds in (("min", ">=", min_duration), ("max", "<=", max_duration)):
        if seconds is not None:
            if not math.isfinite(seconds):
                raise ValueError(f"{name}_duration: {seconds} is not a finite number of seconds")
            conditions.append(f"duration {operator} {float(seconds)}")
    return " AND ".join(conditions) or None


def is_single_expression(where: str) -> bool:
    """Whether a filter is one expression: not empty, with balanced parentheses, no `;` and no comment.

    Lance drops what follows a semicolon, and unbalanced parentheses would change the other filters that are joined.
    """
    unquoted = re.sub(r"'(?:[^']|'')*'|`[^`]*`|\"[^\"]*\"", "", where)
    depth = 0
    for character in unquoted:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0 and bool(where.strip()) and not any(token in unquoted for token in (";", "--", "/*"))
