import pytest

from verbspace.utils.text import format_odds, format_spans, format_timestamp, is_utf8_encodable, sanitize


def test_sanitize_escapes_control_characters() -> None:
    assert sanitize("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert sanitize("Füße – 走る") == "Füße – 走る"


def test_unpaired_surrogates() -> None:
    assert is_utf8_encodable("走る 🏃")
    assert not is_utf8_encodable("a\udc80")


@pytest.mark.parametrize(("seconds", "expected"), [(5, "0:05.0"), (59.96, "1:00.0"), (3723.4, "1:02:03.4")])
def test_format_timestamp(seconds: float, expected: str) -> None:
    assert format_timestamp(seconds) == expected


def test_format_spans() -> None:
    assert format_spans([(0.2, 1.4), (3, 3.5)]) == "0.2–1.4, 3.0–3.5 s"
    assert format_spans([(0.2, 1.4), (59, 61)]) == "0:00.2–0:01.4, 0:59.0–1:01.0"


@pytest.mark.parametrize(("odds", "expected"), [(1.07, "1.07"), (4.94, "4.9"), (66.2, "66"), (1001, "more than 1000")])
def test_format_odds(odds: float, expected: str) -> None:
    assert format_odds(odds) == expected
