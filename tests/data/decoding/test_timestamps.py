from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import numpy as np

from verbspace.data.decoding.timestamps import resolve_pts


def test_times_with_wrong_presentation_times() -> None:
    stream = SimpleNamespace(average_rate=Fraction(25), guessed_rate=None, time_base=Fraction(1, 25))
    right = [2, 3, 5, 6, 7]  # the fourth frame was dropped when the file was made
    jumbled = [2, 5, 3, 7, 6]
    expected = [0, 0.04, 0.12, 0.16, 0.2]
    np.testing.assert_allclose(resolve_pts(stream, right, [None] * 5), expected)
    np.testing.assert_allclose(resolve_pts(stream, jumbled, right), expected)
    np.testing.assert_allclose(resolve_pts(stream, jumbled, [*right[:3], None, None]), expected)
    for useless in (jumbled, [None] * 5, [2, 2, 2, 2, 2]):
        np.testing.assert_allclose(resolve_pts(stream, jumbled, useless), np.arange(5) / 25)
