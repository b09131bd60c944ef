"""Counts and stream properties of a data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from verbspace.data.decoding.probe import probe
from verbspace.data.errors import DecodeError
from verbspace.data.sources import storage
from verbspace.data.sources.manifest import Manifest
from verbspace.utils.progress import ProgressCallback


@dataclass
class DatasetSummary:
    """What a data set contains, and the properties of the files whose headers were read ("probed").

    `skipped`, `splits` and `note` are those of the `Manifest`.
    """

    format: str
    num_videos: int
    missing: list[Path]
    class_counts: Counter[str]
    num_unlabeled: int
    skipped: Counter[str] = field(default_factory=Counter)
    splits: tuple[str, ...] = ()
    note: str = ""
    num_probed: int = 0
    durations: list[float] = field(default_factory=list)
    stream_kinds: Counter[str] = field(default_factory=Counter)
    decode_errors: dict[Path, str] = field(default_factory=dict)


def summarize_dataset(
    manifest: Manifest, probe_files: int | None = 50, on_progress: ProgressCallback | None = None
) -> DatasetSummary:
    """Check which files exist, count classes, and read the headers of `probe_files` evenly spaced files (None: all)."""
    records = manifest.records
    existing: list[Path] = []
    missing: list[Path] = []
    for record in records:
        (existing if storage.exists(record.file) else missing).append(record.path)
    summary = DatasetSummary(
        format=manifest.format,
        num_videos=len(records),
        missing=missing,
        class_counts=Counter(
            name for record in records for name in record.labels or ([record.label] if record.label else [])
        ),
        num_unlabeled=sum(record.label is None and not record.labels for record in records),
        skipped=manifest.skipped,
        splits=manifest.splits,
        note=manifest.note,
    )
    count = len(existing) if probe_files is None else min(probe_files, len(existing))
    for n in range(count):
        path = existing[n * len(existing) // count]
        try:
            stream = probe(path)
        except DecodeError as error:
            summary.decode_errors[path] = error.reason
        else:
            summary.num_probed += 1
            kind = f"{stream.codec} in {stream.container}, {stream.width}x{stream.height}, {stream.fps:.3g} frames/s"
            if stream.hdr is not None:
                kind += f", HDR ({stream.hdr}), mapped to SDR"
            summary.stream_kinds[kind] += 1
            segment = storage.split_segment(str(path))[1] or storage.Segment(0, None)
            end = stream.duration if segment.end is None else segment.end
            if end is not None:
                summary.durations.append(min(end, stream.duration or end) - segment.start)
        if on_progress is not None:
            on_progress("probe", n + 1, count, {})
    return summary
