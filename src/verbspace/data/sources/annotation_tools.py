"""Exports of annotation tools, recognized by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verbspace.data.sources.fiftyone import SAMPLES_FILE, is_fiftyone, read_fiftyone
from verbspace.data.sources.folders import FileLocator
from verbspace.data.sources.label_studio import is_label_studio, read_label_studio
from verbspace.data.sources.record import Record
from verbspace.data.sources.splits import require_split


def json_file_of(source: Path) -> Path | None:
    """Return a JSON file, or that of a folder that FiftyOne exported; None for other sources."""
    source = source / SAMPLES_FILE if source.is_dir() else source
    return source if source.suffix.lower() == ".json" and source.is_file() else None


def read_annotation_tool(
    source: Path, content: Any, locator: FileLocator, split: str | None
) -> tuple[list[Record], str, str] | None:
    """Return the labels in the content of a JSON file, the name of the format and a note; None if it is of no tool."""
    if is_label_studio(content):
        tool, (records, note) = "Label Studio", read_label_studio(source, content, locator)
    elif is_fiftyone(content):
        tool, (records, note) = "FiftyOne", read_fiftyone(source, content, locator)
    else:
        return None
    require_split(source.resolve(), split, f"an export of {tool}")
    return records, f"an export of {tool}", note
