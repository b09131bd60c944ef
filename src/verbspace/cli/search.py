"""The `embed`, `search` and `index` commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from verbspace.cli import checks, collection, options

app = typer.Typer(rich_markup_mode=None)
index_app = typer.Typer(
    help="Inspect, merge, move, clean, export and import an index, or make its search faster.", no_args_is_help=True
)
app.add_typer(index_app, name="index")
index_app.add_typer(collection.app)


@app.command()
def embed(
    sources: options.VideosArgument,
    index: Annotated[
        Path,
        typer.Option(help="Folder of the index to create or update.", parser=options.parse_index_dir, metavar="INDEX"),
    ],
    encoder: options.EncoderOption,
    window: options.WindowOption = 4.0,
    stride: options.StrideOption = None,
    windows: options.WindowsOption = "fixed",
    frames: options.FramesOption = 8,
    dtype: options.DtypeOption = "fp32",
    batch_size: options.BatchSizeOption = 16,
    workers: options.WorkersOption = None,
    device: options.DeviceOption = None,
    shard: Annotated[str | None, typer.Option(help="i/n: embed the i-th of n parts of the videos.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray for the actors of a Ray cluster.")] = "local",
    gpus: Annotated[float, typer.Option(help="With --engine ray: GPUs per actor, which may be a fraction.")] = 0.0,
    commit_interval: Annotated[float, typer.Option(min=0, help="Seconds between commits of finished work.")] = 30.0,
    remove_missing: Annotated[bool, typer.Option("--remove-missing", help="Remove rows of missing files.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Also embed what arrives later, until Ctrl-C.")] = False,
    interval: Annotated[
        float | None, typer.Option(min=0.05, help="With --watch: seconds between looks at the folders. Default: 5.")
    ] = None,
    settle: Annotated[
        float | None, typer.Option(min=0, help="With --watch: a file is complete after these seconds. Default: 10.")
    ] = None,
) -> None:
    """Embed new and changed videos into an index. Videos that cannot be read are reported and skipped."""
    from verbspace.data.sampling import validate_window_kind

    settings: dict[str, Any] = {
        "window": window, "stride": stride, "windows": validate_window_kind(windows), "frames": frames, "dtype": dtype,
        "batch_size": batch_size, "num_workers": workers or None, "device": device,
    }  # fmt: skip
    if watch:
        if shard is not None or engine != "local" or gpus or remove_missing:
            raise ValueError("--watch does not go with --shard, --engine, --gpus or --remove-missing; leave them out")
        from verbspace.cli.console.watching import watch_until_stopped

        watch_until_stopped(
            encoder, sources, index, 5.0 if interval is None else interval, 10.0 if settle is None else settle,
            commit_interval=commit_interval, **settings,
        )  # fmt: skip
        return
    if interval is not None or settle is not None:
        raise ValueError("--interval and --settle are settings of --watch; add it, or leave them out")
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.data.sources.inputs import expand_inputs

    if shard is not None and remove_missing:
        raise ValueError("--remove-missing applies to the whole index; merge the shards first")
    errors = ErrorCounter()
    files = expand_inputs(sources, sys.stdin, errors)
    if not remove_missing:
        files = checks.reject_all_missing(files)
    from verbspace.search.builder import build_index

    with progress() as on_progress:
        summary = build_index(
            encoder, files, index, shard=shard, engine=engine, gpus=gpus,
            commit_interval=commit_interval, remove_missing=remove_missing, on_progress=on_progress,
            on_failure=lambda failure: errors(str(failure)), **settings,
        )  # fmt: skip
    print(summary.summary())
    if errors.count:
        raise typer.Exit(1)


@app.command()
def search(
    index: options.IndexArgument,
    query: Annotated[str, typer.Argument(help='Text, or terms in quotes: \'"running" - "outdoors"\'.')] = "",
    similar_to: Annotated[list[str] | None, typer.Option(help="Clip to search for similar ones. Repeatable.")] = None,
    add: Annotated[list[str] | None, typer.Option(help="Text to add to the query. Repeatable.")] = None,
    subtract: Annotated[list[str] | None, typer.Option(help="Text to subtract from the query. Repeatable.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition over path, window, start, end, fps, duration, size, modified, identity."),
    ] = None,
    path: Annotated[str | None, typer.Option(help="Only paths that contain this pattern (*, ?).")] = None,
    min_duration: Annotated[float | None, typer.Option(help="Shortest video, in seconds.")] = None,
    max_duration: Annotated[float | None, typer.Option(help="Longest video, in seconds.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100_000, help="Number of results.")] = 10,
    per_video: Annotated[bool, typer.Option("--per-video", help="Only the best window of each video.")] = False,
    spans: Annotated[
        bool, typer.Option("--spans", help="Spans of any length instead of windows, from the best videos.")
    ] = False,
    no_ann: Annotated[bool, typer.Option("--no-ann", help="Search exactly, without the approximate index.")] = False,
    output_format: Annotated[str, typer.Option("--format", help="table, jsonl or html.")] = "table",
    as_json: options.JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option(help="With --format html: the page to write.", callback=options.out_file, is_eager=True),
    ] = None,
    embed_clips: Annotated[bool, typer.Option("--embed-clips", help="Store the clips inside the page.")] = False,
    also: Annotated[
        list[Path] | None,
        typer.Option(
            help="Further index, of the same encoder. Repeatable.", parser=options.parse_index_dir, metavar="INDEX"
        ),
    ] = None,
    encoder: options.IndexEncoderOption = None,
    device: options.DeviceOption = None,
) -> None:
    """Search an index, or several, by text, by example clips, or by sums and differences of both."""
    from verbspace.cli.console.predictions import resolve_format
    from verbspace.cli.console.terminal import print_error
    from verbspace.search.index import Index, list_index_shards, read_manifest
    from verbspace.search.query import collect_terms, describe_query, validate_not_empty

    output_format = resolve_format(output_format, as_json)
    if output_format not in ("table", "jsonl", "html"):
        raise ValueError(f"format: {output_format!r} is not one of table, jsonl, html")
    if (output_format == "html") != (out is not None):
        raise ValueError("--format html and --out page.html must be given together")
    if embed_clips and out is None:
        raise ValueError("--embed-clips needs --format html --out page.html; add them, or leave it out")
    if spans and per_video:
        raise ValueError("--spans and --per-video contradict each other; give one of them")
    terms = collect_terms(query, add or (), subtract or ())
    validate_not_empty(terms, similar_to or ())
    folders = [index, *(also or ())]
    for folder in folders:
        if where is None:
            read_manifest(folder)
        else:
            Index.open(folder).validate_filter(where)
    for clip in similar_to or []:
        if checks.is_missing(clip):
            raise ValueError(f"{clip}: there is no such file")
    from verbspace.cli.console.search_tables import print_hits
    from verbspace.search.searcher import Searcher

    searcher = Searcher(folders, encoder, device=device)
    if shards := [shard for folder in folders for shard in list_index_shards(folder)]:
        print_error(f"{len(shards)} shards are not merged yet and are not searched, such as {shards[0]}", "warning")
    hits = searcher.search(
        terms, similar_to=similar_to or (), top=top, where=where, path=path, min_duration=min_duration,
        max_duration=max_duration, per_video=per_video, spans=spans, exact=no_ann,
    )  # fmt: skip
    description = describe_query(terms, similar_to or ())
    print_hits(hits, output_format, out, query=description, indices=searcher.indices, embed_clips=embed_clips)


@index_app.command("info")
def info(
    index: options.IndexArgument,
    checksum: Annotated[bool, typer.Option("--checksum", help="Also print a checksum of all rows.")] = False,
) -> None:
    """Print the settings of an index, its size, and the files that could not be read."""
    from verbspace.cli.console.search_tables import index_info_lines

    for line in index_info_lines(index, checksum):
        print(line)


@index_app.command("merge")
def merge(index: options.IndexArgument) -> None:
    """Merge the shards of an index into it and remove them."""
    from verbspace.search.index import list_index_shards
    from verbspace.search.transfer import merge_shards

    has_shards = bool(list_index_shards(index))
    summary = merge_shards(index)
    print(summary.summary(index) if has_shards else f"{index}: there are no shards to merge")


@index_app.command("move")
def move(
    index: options.IndexArgument,
    old: Annotated[str, typer.Argument(help="Folder or file as it is in the index.")],
    new: Annotated[str, typer.Argument(help="Where it is now.")],
) -> None:
    """Change the paths of videos that were moved. Nothing is embedded again."""
    from verbspace.search.move import move_files

    print(f"{index}: {move_files(index, old, new)} files moved")


@index_app.command("export")
def export(
    index: options.IndexArgument,
    out: Annotated[Path, typer.Option(help="Parquet file to write.", callback=options.out_file, is_eager=True)],
) -> None:
    """Write all rows to a Parquet file."""
    from verbspace.search.index import Index
    from verbspace.search.transfer import export_parquet

    print(f"{out}: {export_parquet(Index.open(index), out)} rows")


@index_app.command("import")
def import_(
    index: options.IndexArgument,
    source: Annotated[Path, typer.Option("--from", help="Parquet file from `verbspace index export`.")],
) -> None:
    """Add the rows of a Parquet file to an index with the same settings, or to a new index."""
    from verbspace.search.transfer import import_parquet

    print(import_parquet(index, source).summary(index))


@index_app.command("build-ann")
def build_ann(
    index: options.IndexArgument,
    recall: Annotated[float, typer.Option(min=0.1, max=1, help="Fraction of the ten nearest rows to find.")] = 0.95,
    encoder: options.IndexEncoderOption = None,
    device: options.DeviceOption = None,
) -> None:
    """Build an approximate index for many rows. Its settings are chosen by recall, measured with 400 text queries."""
    from verbspace.concepts.concept_set import ConceptSet
    from verbspace.search.index import Index, lock_index

    opened = Index.open(index)
    from verbspace.search.ann import build_ann_index, require_ann_rows
    from verbspace.search.searcher import Searcher

    require_ann_rows(opened)  # before the encoder is loaded
    searcher = Searcher(index, encoder, device=device)
    queries = searcher.query_encoder.encode(ConceptSet.load("k400").action_names, cached=True)
    with lock_index(index):
        config = build_ann_index(searcher.index, queries, recall=recall)
    print(f"{index}: {config.nprobes} of {config.num_partitions} partitions searched, recall {config.recall}")
