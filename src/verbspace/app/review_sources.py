"""Videos to review, with predictions: from videos, from an index, or from the output of `predict`."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Iterable
from pathlib import Path

import torch

from verbspace.app.review import MAX_CHOICES, ReviewItem
from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import expand_inputs
from verbspace.data.sources.storage import is_url
from verbspace.data.sources.text_files import numbered_lines
from verbspace.inference.predictor import Predictor
from verbspace.models.hashing import encoder_hash
from verbspace.utils.progress import ProgressCallback

_PROGRESS_INTERVAL = 16  # files
logger = logging.getLogger(__name__)


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
        _require_files(item.path for item in found)
        return found
    if (path / "index.json").is_file():
        return _from_index(path, predictor)
    items, files = [], list(expand_inputs([str(source)]))
    _require_files(files)
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


def _require_files(names: Iterable[str]) -> None:
    if (url := next(filter(is_url, names), None)) is not None:
        raise ValueError(f"{url}: the page plays files only; download the videos to review")


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
