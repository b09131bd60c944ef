"""Print search results, and the contents of an index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from verbspace.data.sources.inputs import is_url
from verbspace.data.sources.storage import split_segment, split_shard_path
from verbspace.reporting.found_clips import display_path, render_search_page
from verbspace.search.index import Index, list_index_shards
from verbspace.search.schema import Hit
from verbspace.utils.atomic_io import write_text
from verbspace.utils.text import format_count, format_timestamp, sanitize

_MAX_LISTED_FAILURES = 20


def print_hits(
    hits: Sequence[Hit],
    output_format: str,
    out: Path | None,
    *,
    query: str,
    indices: Sequence[Index],
    embed_clips: bool = False,
) -> None:
    """Print results as a table or as JSON lines, or write an HTML page with the query to `out`."""
    if out is not None:
        names = [index.folder.resolve().name for index in indices]
        write_text(out, render_search_page(hits, query, out.parent, indices=names, embed_clips=embed_clips))
        print(f"{out}: {len(hits)} results")
    elif output_format == "jsonl":
        for hit in hits:
            values = {name: value for name, value in asdict(hit).items() if name != "index" or value}
            print(json.dumps({**values, "missing": is_missing(hit.path)}), flush=True)
    else:
        for line in format_hits(hits):
            print(line)
        for index in indices if not hits else ():
            if not len(index):
                print(f"{index.folder}: the index is empty")


def is_missing(path: str) -> bool:
    """Return whether a file, or the shard that it is in, no longer exists. URLs are not looked up."""
    if is_url(path):
        return False
    path, _ = split_segment(path)
    shard = split_shard_path(path)
    return not os.path.exists(path if shard is None else shard[0])


def format_hits(hits: Sequence[Hit]) -> Iterator[str]:
    """Format each result as a line with score, time, path and, if several were searched, its index."""
    for hit in hits:
        times = f"{format_timestamp(hit.start):>9} – {format_timestamp(hit.end):<9}"
        missing = "  (missing)" if is_missing(hit.path) else ""
        index = f"  [{sanitize(hit.index)}]" if hit.index else ""
        yield f"{hit.score:6.3f}  {times} {sanitize(display_path(hit.path))}{missing}{index}"
    if not hits:
        yield "no results"


def index_info_lines(folder: Path, checksum: bool = False) -> Iterator[str]:
    """Describe an index, line by line, with a checksum of all rows if requested."""
    shards = list_index_shards(folder)
    if shards and not (folder / "index.json").exists():
        yield f"{folder}: contains only shards; run `verbspace index merge {folder}` when all are complete"
        for shard in shards:
            part = Index.open(shard)
            unreadable = format_count(len(part.failed_files()), "unreadable file")
            yield f"shard     {shard.name}: {format_count(len(part), 'window')}, {unreadable}"
        return
    index = Index.open(folder)
    manifest, failures, ann = index.manifest, index.failed_files(), index.read_ann_config()
    yield f"{folder}: {format_count(len(index), 'window')} of {format_count(len(index.file_signatures()), 'file')}"
    yield f"encoder   {manifest.encoder} ({manifest.encoder_hash}), D = {manifest.dim}"
    yield f"windows   {manifest.describe_windows().removeprefix('windows of ')}, {manifest.dtype}"
    if ann is None:
        yield "search    exact"
    else:
        new_rows = f"; {len(index) - ann.rows} rows added since" if len(index) > ann.rows else ""
        yield f"search    approximate, {ann.nprobes} of {ann.num_partitions} partitions, recall {ann.recall}{new_rows}"
    for shard in shards:
        yield f"shard     {shard.name}, not merged yet"
    if checksum:
        yield f"checksum  {index.checksum()}"
    for path, reason in sorted(failures.items())[:_MAX_LISTED_FAILURES]:
        yield f"failed    {sanitize(f'{path}: {reason}')}"
    if len(failures) > _MAX_LISTED_FAILURES:
        yield f"          and {len(failures) - _MAX_LISTED_FAILURES} more"
