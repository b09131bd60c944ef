"""SQL filters over the columns of an index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate


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
    conditions += [f"duration >= {float(min_duration)}"] if min_duration is not None else []
    conditions += [f"duration <= {float(max_duration)}"] if max_duration is not None else []
    return " AND ".join(conditions) or None


def closes_parenthesis_early(where: str) -> bool:
    """Whether a condition has a closing parenthesis without an opening one before it."""
    unquoted = re.sub(r"'[^']*'|`[^`]*`|\"[^\"]*\"", "", where)
    return min(accumulate((c == "(") - (c == ")") for c in unquoted), default=0) < 0
