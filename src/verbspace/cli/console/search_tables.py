"""Hits and facts of an index, for eyes and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from verbspace.reporting.found_clips import display_path, render_search_page
from verbspace.search.hits import Hit
from verbspace.search.index import Index, list_index_shards
from verbspace.search.vector_search import read_ann_config
from verbspace.utils.atomic_io import write_text
from verbspace.utils.text import format_timestamp, sanitize

_MAX_LISTED = 20  # files that could not be read, named by `info`


def print_hits(
    hits: Sequence[Hit], output_format: str, out: Path | None, *, query: str, index: Path, embed_clips: bool = False
) -> None:
    """Print hits as a table or as JSON lines, or write the page `out`."""
    if out is not None:
        page = render_search_page(hits, query, out.parent, index=index.resolve().name, embed_clips=embed_clips)
        write_text(out, page)
        print(f"{out}: {len(hits)} hits")
    elif output_format == "jsonl":
        for hit in hits:
            print(json.dumps(asdict(hit)), flush=True)
    else:
        for line in format_hits(hits):
            print(line)
        if not hits and not len(Index.open(index)):
            print(f"{index}: the index is empty")


def format_hits(hits: Sequence[Hit]) -> Iterator[str]:
    """A line for each hit: score, when, path."""
    for hit in hits:
        yield f"{hit.score:6.3f}  {format_timestamp(hit.start):>9} – {format_timestamp(hit.end):<9} {sanitize(display_path(hit.path))}"
    if not hits:
        yield "nothing found"


def index_info_lines(folder: Path, checksum: bool = False) -> Iterator[str]:
    """What there is to say about an index, line by line. Raises FileNotFoundError, ValueError."""
    if not (folder / "index.json").exists() and (waiting := list_index_shards(folder)):
        yield f"{folder}: shards only; run `verbspace index merge {folder}` when all are done"
        for shard in waiting:
            part = Index.open(shard)
            yield f"shard    {shard.name}: {len(part)} windows, {len(part.failed_files())} files that could not be read"
        return
    index = Index.open(folder)
    made, states, unread, tuned = index.manifest, index.file_signatures(), index.failed_files(), read_ann_config(index)
    yield f"{folder}: {len(index)} windows of {len(states)} files"
    yield f"encoder  {made.encoder} ({made.encoder_hash}), D = {made.dim}"
    yield f"windows  {made.window:g} s every {made.stride:g} s, {made.frames} frames each, {made.dtype}"
    if tuned is None:
        yield "search   exact"
    else:
        grown = f", {len(index) - tuned.rows} rows since" if len(index) > tuned.rows else ""
        yield f"search   {tuned.nprobes} of {tuned.num_partitions} lists, recall {tuned.recall} when tuned{grown}"
    for shard in list_index_shards(folder):
        yield f"shard    {shard.name}, not merged yet"
    if checksum:
        yield f"digest   {index.checksum()}"
    for path, reason in list(sorted(unread.items()))[:_MAX_LISTED]:
        yield f"unread   {sanitize(reason if path in reason else f'{path}: {reason}')}"
    if len(unread) > _MAX_LISTED:
        yield f"         and {len(unread) - _MAX_LISTED} more that could not be read"
