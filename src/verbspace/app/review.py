"""The review queue: videos with predictions, the most uncertain first, whose labels are saved after each answer."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from verbspace.data.sources.file_lists import read_list
from verbspace.data.sources.text_files import numbered_lines
from verbspace.utils.atomic_io import write_text

MAX_CHOICES = 5  # actions of an item
_HEADER = ["path", "label"]
ReviewOrder = Literal["uncertain", "balanced", "random"]


@dataclass(frozen=True)
class ReviewItem:
    """A video to label, and its actions with probabilities, most probable first."""

    path: str
    ranking: list[tuple[str, float]]

    @property
    def margin(self) -> float:
        """The difference between the two largest probabilities; small for uncertain predictions."""
        probabilities = [probability for _, probability in self.ranking]
        return probabilities[0] - (probabilities[1] if len(probabilities) > 1 else 0.0)


def sort_items(items: Sequence[ReviewItem], order: ReviewOrder = "uncertain") -> list[ReviewItem]:
    """Sort videos for a review.

    Args:
        items: The videos.
        order: "uncertain": by margin, the smallest first. "balanced": the first action of the ranking in turn, for each
            the most uncertain videos first. "random": by a hash of the path, which is the same after a restart.

    Raises:
        ValueError: The order is another one.
    """
    match order:
        case "random":
            return sorted(items, key=lambda item: hashlib.sha256(item.path.encode(errors="surrogateescape")).digest())
        case "uncertain" | "balanced":
            by_margin = sorted(items, key=lambda item: item.margin)
            if order == "uncertain":
                return by_margin
            seen: Counter[str] = Counter()
            turns = []
            for item in by_margin:
                seen[item.ranking[0][0]] += 1
                turns.append(seen[item.ranking[0][0]])
            return [item for _, item in sorted(zip(turns, by_margin, strict=True), key=lambda pair: pair[0])]
    raise ValueError(f"review order: {order!r} is not one of uncertain, balanced, random")


class ReviewQueue:
    """Videos in an order, and the file of their labels, which is written after each answer.

    The file is a CSV with the columns `path` and `label`, as `fit`, `evaluate` and the other commands take it. Videos
    that it already lists count as answered, so a queue continues after a restart. The methods are thread-safe.

    Args:
        items: The videos.
        actions: The actions that are valid labels.
        labels_file: The file. Its labels of other videos are kept.
        order: See `sort_items`.

    Raises:
        ValueError: There are no items, or the file has other columns.
    """

    def __init__(
        self,
        items: Sequence[ReviewItem],
        actions: Sequence[str],
        labels_file: str | Path,
        order: ReviewOrder = "uncertain",
    ) -> None:
        if not items:
            raise ValueError("there are no videos to review")
        self.items = sort_items(list({item.path: item for item in items}.values()), order)
        self.actions, self.labels_file = list(actions), Path(labels_file)
        self._number_of = {os.path.abspath(item.path): number for number, item in enumerate(self.items)}
        self._lock = threading.Lock()
        self._skipped: list[int] = []  # in the order in which they come again
        self._undone: list[int] = []  # come first
        self._history: list[int] = [
            self._number_of[path] for path in read_reviewed(self.labels_file) if path in self._number_of
        ]
        self._answered = set(self._history)

    @property
    def progress(self) -> tuple[int, int]:
        """The number of videos with a label, and of all."""
        return len(self._answered), len(self.items)

    def current(self) -> int | None:
        """Return the number of the video to label next; None if all have a label. Skipped ones come last."""
        later = set(self._skipped)
        numbers = (n for n in range(len(self.items)) if n not in self._answered and n not in later)
        return next(iter(self._undone), next(numbers, next(iter(self._skipped), None)))

    def answer(self, number: int, label: str) -> bool:
        """Label a video, and save. Returns False, and does nothing, unless it is the current one.

        Raises:
            ValueError: The label is not one of the actions.
            OSError: The file cannot be written.
        """
        if label not in self.actions:
            raise ValueError(f"{label!r} is not one of the {len(self.actions)} actions")
        with self._lock:
            if number != self.current():
                return False
            self._save(number, label)
            self._answered.add(number)
            self._leave(number)
        return True

    def skip(self, number: int) -> bool:
        """Leave a video for the end. Returns False, and does nothing, unless it is the current one."""
        with self._lock:
            if number != self.current():
                return False
            self._leave(number)
            self._skipped.append(number)
        return True

    def undo(self) -> bool:
        """Take back the last answer or skip, also one before a restart. Its video is the current one again."""
        with self._lock:
            if not self._history:
                return False
            number = self._history[-1]
            if number in self._answered:
                self._save(number, None)
            self._history.pop()
            self._answered.discard(number)
            self._skipped = [n for n in self._skipped if n != number]
            self._undone.insert(0, number)
        return True

    def _leave(self, number: int) -> None:
        """Note that a video was answered or skipped."""
        self._skipped = [n for n in self._skipped if n != number]
        self._undone = [n for n in self._undone if n != number]
        self._history.append(number)

    def _save(self, number: int, label: str | None) -> None:
        """Set or remove a label in the file, which may have been edited meanwhile."""
        path, labels = os.path.abspath(self.items[number].path), read_reviewed(self.labels_file)
        labels.pop(path, None)
        if label is not None:
            labels[path] = label
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([_HEADER, *labels.items()])
        write_text(self.labels_file, content.getvalue())


def read_reviewed(labels_file: Path) -> dict[str, str]:
    """Read a file of reviewed labels, by absolute path, in its order; nothing if it does not exist.

    Raises:
        ValueError: It has other columns.
    """
    if not labels_file.exists():
        return {}
    header = next(csv.reader([line for _, line in numbered_lines(labels_file)][:1]), _HEADER)
    if header != _HEADER:
        raise ValueError(
            f"{labels_file}: its columns are {', '.join(header)}, and a file of reviewed labels has path and label; "
            "give another file"
        )
    records = read_list(labels_file, labels_file.absolute().parent).records
    return {os.path.abspath(record.file): record.label for record in records if record.label is not None}
