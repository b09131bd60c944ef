"""The commands of `verbspace index` about the videos of an index: `features`, `overview` and `dedupe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verbspace.cli import checks, options

app = typer.Typer(rich_markup_mode=None)
ThresholdOption = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="Cosine similarity of embeddings from which on two videos are read and compared."
    ),
]


@app.command()
def features(
    index: options.IndexArgument,
    out: Annotated[Path, typer.Option(help="Folder for one .npy file per video, or a .tar file (WebDataset).")],
    frames: Annotated[
        bool, typer.Option("--frames", help="Also write the features of the frames. The videos are read again.")
    ] = False,
    encoder: options.IndexEncoderOption = None,
    device: options.DeviceOption = None,
) -> None:
    """Write the features of each video as NumPy arrays, for other programs."""
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.terminal import ErrorCounter
    from verbspace.search.index import read_manifest

    read_manifest(index)
    if not frames and (encoder is not None or device is not None):
        raise ValueError("--encoder and --device need --frames; add it, or remove them")
    from verbspace.search.features import export_features
    from verbspace.utils.text import format_count

    errors = ErrorCounter()
    with progress() as on_progress:
        summary = export_features(
            index, out, frames=frames, encoder=encoder, device=device, on_progress=on_progress,
            on_failure=lambda failure: errors(str(failure)),
        )  # fmt: skip
    print(f"{out}: {format_count(summary.files, 'video')}, {format_count(summary.windows, 'window')}")
    if errors.count:
        raise typer.Exit(1)


@app.command()
def overview(
    index: options.IndexArgument,
    out: Annotated[Path, typer.Option(help="HTML page to write.", callback=options.out_file, is_eager=True)],
    clusters: Annotated[int | None, typer.Option(min=1, help="Number of clusters. Default: the clearest.")] = None,
    concepts: Annotated[
        str | None,
        typer.Option(
            help="Words for clusters: bundled name or JSON file. Default: the encoder's own, else k400.",
            callback=checks.known_concepts,
        ),
    ] = None,
    threshold: ThresholdOption = 0.95,
    encoder: options.IndexEncoderOption = None,
    device: options.DeviceOption = None,
) -> None:
    """Write a page that shows what the videos of an index are: clusters with names, outliers, copies, a map."""
    from verbspace.cli.console.progress import progress
    from verbspace.concepts.concept_set import ConceptSet
    from verbspace.search.index import read_manifest

    read_manifest(index)
    from verbspace.reporting.collection_page import render_collection_page
    from verbspace.search.overview import import_sklearn, make_overview
    from verbspace.search.searcher import Searcher
    from verbspace.utils.atomic_io import write_text
    from verbspace.utils.text import format_count

    import_sklearn()
    with progress() as on_progress:
        found = make_overview(
            Searcher(index, encoder, device=device), clusters=clusters, threshold=threshold,
            concepts=None if concepts is None else ConceptSet.load(concepts), on_progress=on_progress,
        )  # fmt: skip
    write_text(out, render_collection_page(found, index=index.resolve().name))
    counts = (
        format_count(len(found.files), "video"), format_count(len(found.clusters), "cluster"),
        format_count(len(found.duplicates), "copy", "copies"),
    )  # fmt: skip
    print(f"{out}: {', '.join(counts)}")


@app.command()
def dedupe(
    index: options.IndexArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the copies.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Only videos with the same content. No video is read.")
    ] = False,
    threshold: ThresholdOption = 0.95,
    as_json: options.JsonOption = False,
) -> None:
    """Find copies of videos, and remove their rows from an index. The files of the videos stay."""
    import json
    from dataclasses import asdict

    from verbspace.cli.console.progress import progress
    from verbspace.reporting.found_clips import display_path
    from verbspace.search.duplicates import remove_duplicates
    from verbspace.search.index import read_manifest
    from verbspace.utils.text import format_count, sanitize

    read_manifest(index)
    with progress() as on_progress:
        found = remove_duplicates(
            index, threshold=threshold, exact_only=exact, dry_run=dry_run, on_progress=on_progress
        )
    for copy in found:
        if as_json:
            print(json.dumps(asdict(copy)))
        else:
            how = "same content" if copy.exact else f"motion {copy.motion:.2f}, embedding {copy.similarity:.3f}"
            print(sanitize(f"{display_path(copy.path)}  is a copy of  {display_path(copy.copy_of)}  ({how})"))
    if not as_json:
        done = "found" if dry_run else "removed from the index; their files stay"
        print(f"{index}: {format_count(len(found), 'copy', 'copies')} {done}")
