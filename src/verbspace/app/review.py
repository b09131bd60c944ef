"""The review queue: videos with predictions, the most uncertain first, whose labels are saved after each answer."""

from __future__ import annotations

import csv
import glob
import io
import json
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from verbspace.data.errors import DecodeError
from verbspace.data.sources.file_lists import read_list
from verbspace.data.sources.inputs import expand_inputs
from verbspace.data.sources.storage import is_url
from verbspace.data.sources.text_files import numbered_lines
from verbspace.inference.predictor import Predictor
from verbspace.models.hashing import encoder_hash
from verbspace.utils.atomic_io import write_text
from verbspace.utils.progress import ProgressCallback

MAX_CHOICES = 5  # actions of an item
_PROGRESS_INTERVAL = 16  # files
_HEADER = ["path", "label"]
logger = logging.getLogger(__name__)


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


class ReviewQueue:
    """Videos in the order of their margin, and the file of their labels, which is written after each answer.

    The file is a CSV with the columns `path` and `label`, as `fit`, `evaluate` and the other commands take it. What it
    says already counts as answered, so that a queue goes on where it was left. Several threads can call the methods.

    Args:
        items: The videos.
        actions: The actions that are valid labels.
        labels_file: The file. Its labels of other videos are kept.

    Raises:
        ValueError: There are no items, or the file has other columns.
    """

    def __init__(self, items: Sequence[ReviewItem], actions: Sequence[str], labels_file: str | Path) -> None:
        if not items:
            raise ValueError("there are no videos to review")
        self.items = sorted({item.path: item for item in items}.values(), key=lambda item: item.margin)
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


def review_items(
    source: str | Path, predictor: Predictor, on_progress: ProgressCallback | None = None
) -> list[ReviewItem]:
    """Predict the videos to review.

    Args:
        source: JSON lines of `verbspace predict`, an index, or videos: a folder, a list, a file or a pattern. Videos
            that cannot be read are logged and left out.
        predictor: For an index and for videos.
        on_progress: Called after each batch.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: No video can be read, or the index is of another encoder.
    """
    path = Path(source)
    if not path.exists() and not glob.has_magic(str(source)):
        raise FileNotFoundError(f"{source}: there is no such file or folder to review")
    if path.suffix.lower() == ".jsonl" and path.is_file() and (found := _read_predictions(path)):
        return found
    if (path / "index.json").is_file():
        return _from_index(path, predictor)
    items, files = [], list(expand_inputs([str(source)]))
    if urls := [file for file in files if is_url(file)]:
        raise ValueError(f"{urls[0]}: the page plays files only; download the videos to review")
    for number, (name, outcome) in enumerate(predictor.predict_stream(files), 1):
        if isinstance(outcome, DecodeError):
            logger.warning("%s", outcome)
        else:
            items.append(ReviewItem(name, outcome.ranking[:MAX_CHOICES]))
        if on_progress is not None and (number % _PROGRESS_INTERVAL == 0 or number == len(files)):
            on_progress("predict the videos to review", number, len(files), {})
    if not items:
        raise ValueError(f"{source}: none of the {len(files)} videos can be read; give others to review")
    return items


def _read_predictions(source: Path) -> list[ReviewItem]:
    """Read the output of `predict --format jsonl`; nothing if the first line is not of it."""
    items: list[ReviewItem] = []
    for number, line in numbered_lines(source):
        try:
            row = json.loads(line)
            path, actions = row["path"], row["actions"]
            ranking = [(str(name), float(value)) for name, value in actions.items()]
            items.append(ReviewItem(str(path), ranking[:MAX_CHOICES]))
            if not items[-1].margin >= 0:
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            if not items:
                return []
            raise ValueError(
                f"{source}: line {number}: not a prediction of `verbspace predict --format jsonl`, which has path and "
                "actions; create the file again"
            ) from None
    return items


def _from_index(folder: Path, predictor: Predictor) -> list[ReviewItem]:
    """Average the distributions of the windows of each video of an index."""
    from verbspace.search.index import Index

    index = Index.open(folder)
    if index.manifest.encoder_hash != encoder_hash(predictor.encoder):
        raise ValueError(f"{folder}: the index was built with another encoder, {index.manifest.encoder}; use that one")
    if predictor.scoring == "phases":
        raise ValueError(f"{folder}: an index has no phases of clips; review the videos themselves")
    sums: dict[str, torch.Tensor] = {}
    for batch in index.scan(["path", "vector"]):
        vectors = torch.tensor(batch["vector"].to_pylist())
        for path, row in zip(batch["path"].to_pylist(), predictor.probabilities(vectors), strict=True):
            sums[path] = sums[path] + row if path in sums else row
    items = []
    for path, total in sums.items():
        mean = total / total.sum()
        best = mean.topk(min(MAX_CHOICES, len(mean)))
        names = [predictor.space.action_names[n] for n in best.indices.tolist()]
        items.append(ReviewItem(path, list(zip(names, best.values.tolist(), strict=True))))
    return items
