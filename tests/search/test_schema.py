"""Rows as Arrow tables, and the manifest."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from support.indices import make_manifest
from verbspace.search.schema import FileRows, files_to_table, rows_checksum, vectors_to_numpy
from verbspace.search.signatures import FileSignature

NUMBERS = st.floats(-1, 1, width=32)
FILES = st.lists(
    st.builds(
        lambda path, size, modified, fps, rows: FileRows(
            path, FileSignature(size, modified), fps, [float(n) for n in range(len(rows))],
            [n + 1.5 for n in range(len(rows))], np.array(rows, np.float32),
        ),
        st.text(min_size=1), st.integers(0, 2**62), st.integers(0, 2**62), st.floats(0, 100, width=32),
        st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3),
    ),
    max_size=4, unique_by=lambda file: file.path,
)  # fmt: skip


@given(files=FILES)
@settings(max_examples=50, deadline=None)
def test_files_to_table_and_checksum(files: list[FileRows]) -> None:
    table = files_to_table(files, make_manifest())
    rows = table.to_pylist()
    expected = [(file, n) for file in files for n in range(len(file.starts))]
    assert [(row["path"], row["window"], row["start"], row["end"]) for row in rows] == [
        (file.path, n, file.starts[n], file.ends[n]) for file, n in expected
    ]
    assert [(row["fps"], row["duration"], row["size"], row["modified"]) for row in rows] == [
        (file.fps, file.ends[-1], *file.signature) for file, _ in expected
    ]
    vectors = [file.vectors for file in files if file.vectors is not None]
    assert vectors_to_numpy(table).tobytes() == b"".join(array.tobytes() for array in vectors)
    reverse = files_to_table(files[::-1], make_manifest())
    assert rows_checksum([reverse]) == rows_checksum(table.to_batches())
    if files:
        assert rows_checksum([reverse.slice(1)]) != rows_checksum([reverse])
