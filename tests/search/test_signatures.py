"""Signatures of local files and of files in object stores."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from verbspace.data.errors import DecodeError
from verbspace.search.signatures import FileSignature, file_signature


def test_unreachable_server_is_not_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        status: int | None = None

        def info(self, path: str) -> dict[str, object]:
            cause = RuntimeError("connection refused")
            cause.status = self.status  # type: ignore[attr-defined]
            raise FileNotFoundError(path) from cause

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (Silent(), url))
    for status in (None, 500):
        monkeypatch.setattr(Silent, "status", status)
        with pytest.raises(DecodeError, match=r"^http://a/b\.mp4: cannot be read: connection refused$"):
            file_signature("http://a/b.mp4")
    for status in (404, 410):
        monkeypatch.setattr(Silent, "status", status)
        assert file_signature("http://a/b.mp4") is None


def test_signature_parses_the_time_formats_of_object_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    info_values: dict[str, object] = {}

    class Store:
        def info(self, path: str) -> dict[str, object]:
            return info_values

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url: (Store(), url))
    for mtime in (1.5, datetime.fromtimestamp(1.5, UTC), "1970-01-01T00:00:01.500000+00:00"):
        info_values.update(size=7, LastModified=mtime)
        assert file_signature("s3://a/b") == FileSignature(7, 1_500_000_000)
    info_values["LastModified"] = "yesterday"
    assert file_signature("s3://a/b") == FileSignature(7, 0)
