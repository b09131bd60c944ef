"""The signature of progress callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Arguments: stage name, units done, total units, values to show beside the bar (loss, accuracy, failures).
ProgressCallback = Callable[[str, int, int, Mapping[str, float]], None]
