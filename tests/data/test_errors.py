from __future__ import annotations

import pickle
from pathlib import Path

from verbspace.data.errors import DecodeError, DecodeFailure, DecodeFailures


def test_error_keeps_path_and_reason_when_pickled() -> None:
    error = pickle.loads(pickle.dumps(DecodeError(Path("a.mp4"), "the file is empty")))
    assert isinstance(error, DecodeError)
    assert (error.path, error.reason) == ("a.mp4", "the file is empty")
    assert str(error) == "a.mp4: the file is empty"


def test_first_failure() -> None:
    failures = DecodeFailures(3)
    assert failures.first() == ""
    failures.add([DecodeFailure(2, Path("b.mp4"), "empty"), DecodeFailure(1, Path("a.mp4"), "damaged")])
    assert failures.first() == "b.mp4: empty"
    assert str(DecodeFailure(2, Path("b.mp4"), "empty")) == "b.mp4: empty"
