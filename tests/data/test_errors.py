from __future__ import annotations

import pickle
from pathlib import Path

from verbspace.data.errors import DecodeError, DecodeFailure, DecodeFailures


def test_error_keeps_path_and_reason_when_pickled() -> None:
    error = pickle.loads(pickle.dumps(DecodeError(Path("a.mp4"), "the file is empty")))
    assert isinstance(error, DecodeError)
    assert (error.path, error.reason) == ("a.mp4", "the file is empty")
    assert str(error) == "a.mp4: the file is empty"


def test_failures_are_counted_once() -> None:
    failures = DecodeFailures(4)
    assert failures.first() == ""
    video = DecodeFailure(0, Path("a.mp4"), "empty")
    assert failures.add([video, video]) == [video]
    assert failures.add([video]) == []
    assert (len(failures), failures.fraction, failures.first()) == (1, 0.25, "a.mp4: empty")
    assert failures.summary().splitlines()[1:] == ["  a.mp4: empty"]
