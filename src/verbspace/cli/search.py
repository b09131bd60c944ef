"""The commands: Videos embedded once and searched often."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)
index_app = typer.Typer(help="What an index holds: seen, exported, imported, merged, tuned.", no_args_is_help=True)
app.add_typer(index_app, name="index")


def _parse_index_dir(name: str) -> Path:
    from verbspace.data.sources.inputs import is_url

    if is_url(name):
        raise typer.BadParameter(
            f"{name}: an index lies in a folder of this machine's, and this is a URL; give a folder"
        )
    return Path(name)


IndexDir = Annotated[Path, typer.Argument(help="The index's folder.", parser=_parse_index_dir, metavar="INDEX")]
Encoder = Annotated[str | None, typer.Option(help="Encoder: folder or hub id; the index says which it was made with.")]


@app.command()
def embed(
    sources: Annotated[list[str], typer.Argument(help="Videos: files, folders, patterns, URLs; - reads a list.")],
    index: Annotated[
        Path,
        typer.Option(
            help="Folder of the index; one that is there is updated.", parser=_parse_index_dir, metavar="INDEX"
        ),
    ],
    encoder: Annotated[str, typer.Option(help="Encoder: folder or hub id.")],
    window: Annotated[float, typer.Option(min=0.1, help="Seconds of a window.")] = 4.0,
    stride: Annotated[float | None, typer.Option(help="Seconds from window to window; a window's length.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of each window.")] = 8,
    dtype: Annotated[str, typer.Option(help="fp32, or bf16: for GPUs and CPUs with units for it.")] = "fp32",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of a video at once.")] = 16,
    workers: Annotated[int | None, typer.Option(min=1, help="Videos at once; as many as CPU cores, up to 8.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; CUDA where there is one.")] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: one of n parts of the videos, as a shard.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: actors of a Ray cluster.")] = "local",
    gpus: Annotated[float, typer.Option(help="With ray: GPUs of each actor.")] = 0.0,
    commit_interval: Annotated[float, typer.Option(min=0, help="Seconds of work that a kill may cost.")] = 30.0,
    remove_missing: Annotated[
        bool, typer.Option("--remove-missing", help="Drop the rows of files that are gone.")
    ] = False,
) -> None:
    """Embed videos into an index, new and changed ones alone. One that cannot be read is named, the others go on."""
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.data.sources.inputs import expand_inputs
    from verbspace.search.update import run_embed

    if shard is not None and remove_missing:
        raise ValueError("--remove-missing is for the whole index: merge the shards, and prune then")
    unread = ErrorCounter()
    with progress() as say:
        tally = run_embed(
            encoder, expand_inputs(sources, sys.stdin, unread), index, window=window, stride=stride, frames=frames,
            dtype=dtype,  # type: ignore[arg-type]
            batch_size=batch_size, num_workers=workers, device=device, shard=shard, engine=engine, gpus=gpus,
            commit_interval=commit_interval, remove_missing=remove_missing,
            on_progress=lambda done, total, bad: say("embedding", done, total, {"bad": bad} if bad else {}),
            on_error=unread,
        )  # fmt: skip
    print(tally.summary())
    if unread.count:
        raise typer.Exit(1)


@app.command()
def search(
    index: IndexDir,
    query: Annotated[
        str, typer.Argument(help='What to look for: plain words, or terms in quotes: \'"running" - "outdoors"\'.')
    ] = "",
    similar_to: Annotated[
        list[str] | None, typer.Option(help="A clip to find more of; may be given many times.")
    ] = None,
    add: Annotated[list[str] | None, typer.Option(help="A text to add; may be given many times.")] = None,
    subtract: Annotated[list[str] | None, typer.Option(help="A text to take away; may be given many times.")] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL over path, window, start, end, fps, duration, size, modified.")
    ] = None,
    path: Annotated[str | None, typer.Option(help="Only paths in which this pattern (*, ?) is found.")] = None,
    min_duration: Annotated[float | None, typer.Option(help="Only of videos at least so long.")] = None,
    max_duration: Annotated[float | None, typer.Option(help="Only of videos at most so long.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100_000, help="How many to show.")] = 10,
    per_video: Annotated[bool, typer.Option("--per-video", help="The best window of each video only.")] = False,
    no_ann: Annotated[
        bool, typer.Option("--no-ann", help="Leave the approximate index aside, if there is one.")
    ] = False,
    output_format: Annotated[str, typer.Option("--format", help="table, jsonl or html.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --format html: the page to write.")] = None,
    embed_clips: Annotated[bool, typer.Option("--embed-clips", help="Put the clips into the page.")] = False,
    encoder: Encoder = None,
) -> None:
    """Find windows of videos by words, by example, and by sums and differences of both."""
    from verbspace.cli.console.predictions import resolve_format
    from verbspace.cli.console.search_tables import print_hits
    from verbspace.search.index import list_index_shards
    from verbspace.search.searcher import Searcher, collect_terms, describe_query
    from verbspace.utils.atomic_io import check_writable

    output_format = resolve_format(output_format, as_json)
    if (output_format == "html") != (out is not None):
        raise ValueError("--format html and --out page.html go together")
    if embed_clips and out is None:
        raise ValueError("--embed-clips is for --format html --out page.html; give these, or leave it out")
    if out is not None:
        check_writable(out)
    if output_format not in ("table", "jsonl", "html"):
        raise ValueError(f"format: {output_format!r} is none of table, jsonl, html")
    terms = collect_terms(query, add or (), subtract or ())
    if '"' not in query and (" - " in query or " + " in query):
        note = 'read as one text; for a sum or a difference put each term in quotes: \'"running" - "outdoors"\''
        print(f"note: {note}", file=sys.stderr)
    searcher = Searcher(index, encoder)
    if waiting := list_index_shards(index):
        print(f"note: {len(waiting)} shards are not merged yet, and not searched: {waiting[0]} …", file=sys.stderr)
    hits = searcher.search(
        terms, similar_to=similar_to or (), top=top, where=where, path=path, min_duration=min_duration, max_duration=max_duration,
        per_video=per_video, exact=no_ann,
    )  # fmt: skip
    print_hits(
        hits, output_format, out, query=describe_query(terms, similar_to or ()), index=index, embed_clips=embed_clips
    )


@index_app.command("info")
def info(
    index: IndexDir,
    checksum: Annotated[bool, typer.Option("--checksum", help="A digest of all rows, to compare indices by.")] = False,
) -> None:
    """Say how an index was made, what it holds and which files could not be read."""
    from verbspace.cli.console.search_tables import index_info_lines

    for line in index_info_lines(index, checksum):
        print(line)


@index_app.command("merge")
def merge(
    index: IndexDir,
    other_indices: Annotated[
        list[Path] | None, typer.Argument(help="Other indices; the index's own shards if none.")
    ] = None,
) -> None:
    """Take shards into the index and remove them, or other indices, which stay."""
    from verbspace.search.index import list_index_shards
    from verbspace.search.transfer import merge as run

    some = bool(other_indices or list_index_shards(index))
    taken = run(index, other_indices or ())
    print(taken.summary(index) if some else f"{index}: there are no shards to merge")


@index_app.command("export")
def export(index: IndexDir, out: Annotated[Path, typer.Option(help="Parquet file to write.")]) -> None:
    """Write all rows as Parquet."""
    from verbspace.search.index import Index
    from verbspace.search.transfer import export_parquet

    print(f"{out}: {export_parquet(Index.open(index), out)} rows")


@index_app.command("import")
def import_(
    index: IndexDir, source: Annotated[Path, typer.Option("--from", help="What `index export` wrote.")]
) -> None:
    """Take the rows of a Parquet file into an index of the same encoder, or into a new one."""
    from verbspace.search.transfer import import_parquet

    print(import_parquet(index, source).summary(index))


@index_app.command("tune")
def build_ann(
    index: IndexDir,
    recall: Annotated[float, typer.Option(min=0.1, max=1, help="Share of the exact ten to find.")] = 0.95,
    encoder: Encoder = None,
) -> None:
    """Make an approximate index for many rows; its settings are chosen by recall, measured with 400 text queries."""
    from verbspace.concepts.concept_set import ConceptSet
    from verbspace.search.ann import build_ann_index as run
    from verbspace.search.index import lock_index
    from verbspace.search.searcher import Searcher

    searcher = Searcher(index, encoder)
    queries = searcher.query_encoder.encode(ConceptSet.load("k400").action_names)
    with lock_index(index):
        found = run(searcher.index, queries, recall=recall, on_step=print)
    print(f"{index}: {found.nprobes} of {found.num_partitions} lists, recall {found.recall}")
