"""Rows as Arrow tables, and the manifest."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.indices import make_manifest
from verbspace.search.schema import (
    FileRows,
    files_to_table,
    rows_checksum,
    table_to_files,
)
from verbspace.search.signatures import FileSignature

NUMBERS = st.floats(-1, 1, width=32)


FILES = st.lists(
    st.builds(
        lambda path, size, when, rate, rows: FileRows(
            path, FileSignature(size, when), rate, [float(n) for n in range(len(rows))],
            [n + 1.5 for n in range(len(rows))], np.array(rows, np.float32),
        ),
        st.text(min_size=1), st.integers(0, 2**62), st.integers(0, 2**62), st.floats(0, 100, width=32),
        st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3),
    ),
    max_size=4, unique_by=lambda file: file.path,
)  # fmt: skip


@given(files=FILES)
@settings(max_examples=50, deadline=None)
def test_files_to_table_round_trip(files: list[FileRows]) -> None:
    back = table_to_files(files_to_table(files, make_manifest()))
    assert [(one.path, one.signature, one.fps, one.starts, one.ends) for one in back] == [
        (one.path, one.signature, one.fps, one.starts, one.ends) for one in files
    ]
    for one, other in zip(files, back, strict=True):
        assert one.vectors is not None
        assert other.vectors is not None
        assert one.vectors.tobytes() == other.vectors.tobytes()
    reverse = files_to_table(files[::-1], make_manifest())
    assert rows_checksum([reverse]) == rows_checksum(files_to_table(files, make_manifest()).to_batches())
    if files:
        assert rows_checksum([reverse.slice(1)]) != rows_checksum([reverse])
