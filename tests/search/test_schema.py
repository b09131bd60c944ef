"""Rows as Arrow tables, and their checksum."""

from __future__ import annotations

import numpy as np

from support.indices import make_manifest
from verbspace.search.schema import COLUMNS, FileRows, files_to_table, rows_checksum, vectors_to_numpy
from verbspace.search.signatures import FileSignature


def test_files_to_table_and_checksum() -> None:
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    one = FileRows("ä/1.mp4", FileSignature(7, 2**62), 29.97, [0.0, 1.0], [1.5, 2.5], vectors[:2], identity="ab")
    two = FileRows("2.mp4", FileSignature(8, 0), 25.0, [0.0], [0.4], vectors[2:])
    table = files_to_table([one, two, FileRows("3.mp4", reason="damaged")], make_manifest())
    assert [tuple(row[name] for name in COLUMNS[:-1]) for row in table.to_pylist()] == [
        ("ä/1.mp4", 0, 0.0, 1.5, np.float32(29.97), 2.5, 7, 2**62, "ab"),
        ("ä/1.mp4", 1, 1.0, 2.5, np.float32(29.97), 2.5, 7, 2**62, "ab"),
        ("2.mp4", 0, 0.0, 0.4, 25.0, 0.4, 8, 0, ""),
    ]
    assert (vectors_to_numpy(table) == vectors).all()
    reverse = files_to_table([two, one], make_manifest())
    assert rows_checksum([reverse]) == rows_checksum([table.slice(1), table.slice(0, 1)])
    assert rows_checksum([reverse.slice(1)]) != rows_checksum([reverse])
    assert len(files_to_table([], make_manifest())) == 0
