"""SQL filters over the columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.indices import random_index
from verbspace.search.filters import combine_filters, path_glob_filter
from verbspace.search.searcher import Searcher, nearest_windows

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


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_durations_must_be_finite(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"min_duration: .* is not a finite number of seconds"):
        combine_filters(None, None, seconds)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nothing >", r"^the filter 'nothing >' is not valid SQL over the columns path, window, start"),
        ("hue = 3", r"^the filter 'hue = 3' is not valid SQL over the columns"),
        ("path = 3", r"^the filter 'path = 3' is not valid SQL"),
        ("start > 1; drop", r"^the filter 'start > 1; drop' is not one SQL condition"),
        (" ", r"is not one SQL condition"),
        ("1) OR (1 = 1", r"^the filter '1\) OR"),
        ("true) OR (start > 100", r"is not one SQL condition"),
        ("start > 1 -- x", r"is not one SQL condition"),
        ("start > 1 /* x", r"is not one SQL condition"),
        ("cast(path as int) > 3", r"^the filter '\(cast\(path as int\) > 3\)' fails for the values of some rows"),
        ("`window` % 0 = 1", r"^the filter '\(`window` % 0 = 1\)' fails for the values of some rows"),
    ],
)
def test_invalid_filter_gives_one_line_error(where: str, message: str, searcher: Searcher) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        searcher.search("x", where=where)
    assert "\n" not in str(caught.value)


def test_semicolon_inside_a_string_is_allowed(searcher: Searcher) -> None:
    assert searcher.search("x", where="path LIKE '%a;b%'") == []
