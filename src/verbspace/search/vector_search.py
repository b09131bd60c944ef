"""The nearest windows: exact by default, by an approximate index where one was made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verbspace.search.hits import Hit
from verbspace.search.index import sql_quote, translate_lance_errors
from verbspace.search.schema import COLUMNS, vectors_to_numpy

if TYPE_CHECKING:
    from verbspace.search.index import Index

RESULT_COLUMNS = ("path", "window", "start", "end", "duration", "fps")


class AnnConfig(BaseModel):
    """What `verbspace index build-ann` settled: lists looked into, candidates reranked per hit, and the share of the exact
    ten that was found so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    num_partitions: int
    nprobes: int = Field(ge=1)
    refine_factor: int = Field(ge=1)
    recall: float


def nearest_windows(
    index: Index,
    vector: np.ndarray,
    top: int,
    where: str | None,
    *,
    per_video: bool,
    exact: bool,
    ann_config: AnnConfig | None = None,
) -> list[Hit]:
    """The `top` windows nearest to a vector (D,) of any length, best first; of equal ones, by path and time.

    where: a filter of Lance (SQL over the columns). per_video: the best window of each video. exact: compare with all
    rows; else use the approximate index, where `verbspace index build-ann` has made one, but with a filter, or where its
    lists hold too few rows. tuned: in other settings than it
    chose. Raises ValueError.
    """
    query = np.asarray(vector, np.float32).reshape(-1)
    if len(query) != index.manifest.dim or not np.isfinite(query).all() or not query.any():
        raise ValueError(f"the query has {len(query)} numbers; give {index.manifest.dim}, finite and not all 0")
    if top < 1:
        raise ValueError(f"top: {top} is not above 0")
    query = query / np.linalg.norm(query)
    ann_config = None if exact or where is not None else ann_config or read_ann_config(index)
    asked = top + 1  # one more, to see whether the last is one of several that are as near
    while True:
        hits = _query_table(index, query, asked, where, ann_config)
        found = _best_per_video(hits) if per_video else hits
        if len(hits) < asked:
            if ann_config is None:
                return found[:top]
            ann_config = None  # its lists are exhausted, and not the index
        elif len(found) > top and found[top - 1].score > hits[-1].score:
            return found[:top]
        else:
            asked *= 4


def get_vector(index: Index, path: str, window: int) -> tuple[Hit, np.ndarray] | None:
    """A window as it lies in the index, and its vector (D,); None where the index has none such. Raises ValueError."""
    where = f"path = {sql_quote(path)} AND `window` = {int(window)}"
    for batch in index.scan((*RESULT_COLUMNS, "vector"), where):
        for n in range(len(batch)):
            path, window, start, end, duration, fps = (batch[name][n].as_py() for name in RESULT_COLUMNS)
            return Hit(path, start, end, 1.0, window, duration, fps), vectors_to_numpy(batch)[n]
    return None


def _query_table(
    index: Index, query: np.ndarray, top: int, where: str | None, ann_config: AnnConfig | None
) -> list[Hit]:
    search: Any = index.table.search(query, vector_column_name="vector").distance_type("dot").limit(top)
    search = search.select([*RESULT_COLUMNS, "_distance"])
    if where is not None:
        search = search.where(where, prefilter=True)
    if ann_config is None:
        search = search.bypass_vector_index()
    else:
        search = search.nprobes(ann_config.nprobes).refine_factor(ann_config.refine_factor)
    try:
        with translate_lance_errors(index.folder):
            rows = search.to_arrow()
    except ValueError as error:
        if where is None or not _is_readable(index):
            raise
        raise ValueError(f"the filter {where}: {_filter_error(error)}; change it") from None
    columns = [rows[name].to_pylist() for name in (*RESULT_COLUMNS, "_distance")]
    hits = [
        Hit(path, start, end, 1 - distance, window, duration, fps)
        for path, window, start, end, duration, fps, distance in zip(*columns, strict=True)
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.path, hit.start))


def _is_readable(index: Index) -> bool:
    """Whether rows can be read, all filters aside."""
    try:
        for _ in index.scan(COLUMNS):
            pass
    except ValueError:
        return False
    return True


def _best_per_video(hits: list[Hit]) -> list[Hit]:
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.path, hit)
    return list(best.values())


def validate_filter(index: Index, where: str) -> None:
    """Raise ValueError for a filter that Lance does not take, or takes in part: it drops what follows a semicolon."""
    bare = re.sub(r"'(?:[^']|'')*'|`[^`]*`|\"[^\"]*\"", "", where)
    if any(sign in bare for sign in (";", "--", "/*")) or not where.strip() or not _has_balanced_parentheses(bare):
        raise ValueError(f"--where {where}: give one SQL expression that is true or false, such as start > 10")
    try:
        index.table.search().where(f"({where})").explain_plan()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"--where {where}: {_filter_error(error)}; write SQL over {', '.join(COLUMNS[:-1])}") from None


def _has_balanced_parentheses(text: str) -> bool:
    """Whether each parenthesis is opened before it is closed, and closed."""
    depth = 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            return False
    return depth == 0


def _filter_error(error: Exception) -> str:
    """The part of Lance's message that is about the filter."""
    text = str(error).splitlines()[0]
    text = re.sub(r"^.*: Arrow error: (.*)\); .*", r"\1", text)
    text = re.sub(r"^(?:Invalid input, |Invalid user input: )+", "", text)
    text = re.sub(r"SELECT 1 FROM t WHERE .* \((.*)\)$", r"\1", text)
    return re.sub(r",? ?\S*\.rs:\d+(?::\d+)?", "", text).rstrip(" .,")


def path_glob_filter(pattern: str) -> str:
    """A filter for paths: `*` is any text, `?` one character; it may match anywhere in a path."""
    special = {"*": ".*", "?": ".", "\\": 2 * "\\"}
    parts = [special.get(one) or re.escape(one) for one in pattern]
    # Without the first part, Lance would make LIKE of a plain text, and read backslashes in another way.
    return "regexp_like(path, '.*" + "".join(parts).replace("'", "''") + "')"


def read_ann_config(index: Index) -> AnnConfig | None:
    """What `tune` settled for this index, or None. Raises ValueError."""
    path = index.folder / "tuned.json"
    if not path.exists():
        return None
    try:
        return AnnConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(f"{path}: {reason}; run `verbspace index build-ann {index.folder}` again") from None
