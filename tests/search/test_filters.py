"""SQL filters over the columns."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from support.indices import random_index
from verbspace.search.filters import combine_filters, path_glob_filter
from verbspace.search.nearest import nearest_windows
from verbspace.search.searcher import Searcher

PATHS = (
    *("a/b.mp4", "a/bmp4", "a/bx.mp4", "x/it's (1)[2]+.avi", "its 12"),
    *("a/test/sitting", "a/sit/test", "ack\\slash.avi"),
)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("b.mp4", {"a/b.mp4"}),
        ("b*mp4", {"a/b.mp4", "a/bmp4", "a/bx.mp4"}),
        ("b?.mp4", {"a/bx.mp4"}),
        ("it's (1)[2]+", {"x/it's (1)[2]+.avi"}),
        ("test*sit", {"a/test/sitting"}),
        ("ack\\slash", {"ack\\slash.avi"}),
        ("*k\\sl?sh.avi", {"ack\\slash.avi"}),
        ("k?s", {"ack\\slash.avi"}),
    ],
)
def test_path_glob_filter(pattern: str, expected: set[str], tmp_path: Path) -> None:
    index = random_index(tmp_path, 4 * len(PATHS))
    rows = index.table.to_arrow()
    renamed = rows.set_column(0, rows.schema.field("path"), [[name for name in PATHS for _ in range(4)]])
    index.table.delete("true")
    index.add(renamed.to_batches())
    assert {hit.path for hit in nearest_windows(index, np.ones(16), 99, path_glob_filter(pattern))} == expected


def test_combine_filters_joins_with_and() -> None:
    assert combine_filters() is None
    assert combine_filters("start > 1 OR end < 2", "x", 3, 4.5) == (
        "(start > 1 OR end < 2) AND regexp_like(path, '.*x') AND duration >= 3.0 AND duration <= 4.5"
    )


@pytest.mark.parametrize(
    "where",
    [
        *("nothing >", "hue = 3", "path = 3", "start > 1; drop", " ", "start > 1)", "true) OR (start > 100"),
        *("start > 1 -- x", "start > 1 /* x", "cast(path as int) > 3", "`window` % 0 = 1"),
    ],
)
def test_invalid_filter_gives_one_line_error(where: str, searcher: Searcher) -> None:
    reason = "is not one SQL condition over the columns path, window, start|fails for the values of some rows"
    with pytest.raises(ValueError, match=rf"the filter '\(?{re.escape(where)}\)?' ({reason})") as caught:
        searcher.search("x", where=where)
    assert "\n" not in str(caught.value)


def test_semicolon_inside_a_string_is_allowed(searcher: Searcher) -> None:
    assert searcher.search("x", where="path LIKE '%a;b%'") == []
