"""Hits and facts of an index, for eyes and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from verbspace.placing import write_text
from verbspace.uses.index.hits import Hit
from verbspace.uses.index.nearest import read_tuned
from verbspace.uses.index.page import search_page, shown_path
from verbspace.uses.index.store import Index, shards_in
from verbspace.uses.plain import plain
from verbspace.uses.printing import clock

_NAMED = 20  # files that could not be read, named by `info`


def show(hits: Sequence[Hit], form: str, out: Path | None, *, query: str, index: Path, copy: bool = False) -> None:
    """Print hits as a table or as JSON lines, or write the page `out`."""
    if out is not None:
        page = search_page(hits, query, out.parent, index=index.resolve().name, copy=copy)
        write_text(out, page)
        print(f"{out}: {len(hits)} hits")
    elif form == "jsonl":
        for hit in hits:
            print(json.dumps(asdict(hit)), flush=True)
    else:
        for line in table(hits):
            print(line)
        if not hits and not len(Index.open(index)):
            print(f"{index}: the index is empty")


def table(hits: Sequence[Hit]) -> Iterator[str]:
    """A line for each hit: score, when, path."""
    for hit in hits:
        yield f"{hit.score:6.3f}  {clock(hit.start):>9} – {clock(hit.end):<9} {plain(shown_path(hit.path))}"
    if not hits:
        yield "nothing found"


def facts(folder: Path, digest: bool = False) -> Iterator[str]:
    """What there is to say about an index, line by line. Raises FileNotFoundError, ValueError."""
    if not (folder / "index.json").exists() and (waiting := shards_in(folder)):
        yield f"{folder}: shards only; run `verbspace index merge {folder}` when all are done"
        for shard in waiting:
            part = Index.open(shard)
            yield f"shard    {shard.name}: {len(part)} windows, {len(part.unread())} files that could not be read"
        return
    index = Index.open(folder)
    made, states, unread, tuned = index.made, index.states(), index.unread(), read_tuned(index)
    yield f"{folder}: {len(index)} windows of {len(states)} files"
    yield f"encoder  {made.encoder} ({made.encoder_hash}), D = {made.dim}"
    yield f"windows  {made.window:g} s every {made.stride:g} s, {made.frames} frames each, {made.dtype}"
    if tuned is None:
        yield "search   exact"
    else:
        grown = f", {len(index) - tuned.rows} rows since" if len(index) > tuned.rows else ""
        yield f"search   {tuned.probes} of {tuned.lists} lists, recall {tuned.recall} when tuned{grown}"
    for shard in shards_in(folder):
        yield f"shard    {shard.name}, not merged yet"
    if digest:
        yield f"digest   {index.digest()}"
    for path, reason in list(sorted(unread.items()))[:_NAMED]:
        yield f"unread   {plain(reason if path in reason else f'{path}: {reason}')}"
    if len(unread) > _NAMED:
        yield f"         and {len(unread) - _NAMED} more that could not be read"
