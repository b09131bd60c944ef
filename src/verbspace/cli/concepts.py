"""The `verbspace concepts` commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verbspace.cli.checks import existing_videos, known_concepts, known_encoder
from verbspace.cli.options import DeviceOption, EncoderOption, out_file

if TYPE_CHECKING:
    from verbspace.concepts.concept_set import DescriptionKind, Phase

app = typer.Typer(
    help="Concept sets: generate, import, show, lint; suggest actions for a folder of videos.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ConceptsArgument = Annotated[
    str, typer.Argument(help="Concept set: a bundled name or a JSON file.", callback=known_concepts)
]
OutOption = Annotated[Path, typer.Option(help="Concept set to write (JSON).", callback=out_file, is_eager=True)]


def _print(line: str) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(line, markup=False, highlight=False)


@app.command()
def write(
    actions: Annotated[Path, typer.Argument(help="Text file with one action per line.")],
    out: OutOption,
    model: Annotated[str | None, typer.Option(help="Name of the model on the server.")] = None,
    base_url: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible API. Default: OpenAI.")] = None,
    local_model: Annotated[str | None, typer.Option(help="Checkpoint to use instead: a folder or a hub id.")] = None,
    min_per_kind: Annotated[int, typer.Option(min=1, max=10, help="Minimum number of sentences of each kind.")] = 2,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Sampling temperature.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=100, help="Maximum length of a reply in tokens.")] = 2000,
    concurrency: Annotated[int, typer.Option(min=1, help="Maximum number of concurrent requests.")] = 8,
    max_attempts: Annotated[int, typer.Option(min=1, help="Attempts per action to get a valid reply.")] = 3,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds without data until a request is retried.")] = 120,
    cache: Annotated[Path | None, typer.Option(help="Cache folder. Default: ~/.cache/verbspace/replies.")] = None,
) -> None:
    """Generate descriptions of actions with a language model.

    Replies are cached. Run the same command again to request only the missing ones. The API key is read from the
    environment variable OPENAI_API_KEY.
    """
    from verbspace.cli.console.progress import progress
    from verbspace.concepts.generation.llm_clients import LanguageModel, OpenAIClient, TransformersClient
    from verbspace.concepts.generation.writer import generate_concepts
    from verbspace.concepts.labels import read_action_names

    names = read_action_names(actions)
    llm: LanguageModel
    if model is not None and local_model is None:
        llm = OpenAIClient(model, base_url, temperature=temperature, max_tokens=max_tokens, timeout=timeout)
    elif local_model is not None and model is None:
        llm = TransformersClient(local_model, temperature=temperature, max_tokens=max_tokens)
    else:
        raise ValueError("pass either --model (with --base-url for a server other than OpenAI) or --local-model")
    with progress() as report:
        result = generate_concepts(
            names, llm, name=out.stem, min_per_kind=min_per_kind, max_attempts=max_attempts, concurrency=concurrency,
            cache=cache, on_progress=report,
        )  # fmt: skip
    if result.concepts is not None:
        result.concepts.save(out)
        _print(
            f"{out}: {len(result.concepts.actions)} of {len(names)} actions, "
            f"{len(result.concepts.descriptions)} sentences ({result.num_requests} requests, "
            f"{result.num_cached} actions from the cache, {result.num_dropped_sentences} sentences dropped)"
        )
    if result.failures:
        reasons = "\n".join(f"  {action}: {reason}" for action, reason in result.failures.items())
        raise ValueError(
            f"{len(result.failures)} of {len(names)} actions failed; run the same command again to retry:\n{reasons}"
        )


@app.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(help="JSON files: FILE, or FILE=KIND (motion, pose, objects, scene; start, middle, end)."),
    ],
    out: OutOption,
    labels: Annotated[Path | None, typer.Option(help="Text file with the class labels in order, one per line.")] = None,
) -> None:
    """Import published descriptors in the formats of CuPL, Menon and Vondrick, OST or FROSTER."""
    from verbspace.concepts.concept_set import DESCRIPTION_KINDS, PHASES
    from verbspace.concepts.importers import import_concepts
    from verbspace.concepts.labels import read_action_names

    kinds: dict[str | Path, DescriptionKind | Phase] = {}
    allowed = (*DESCRIPTION_KINDS, *PHASES)
    for entry in files:
        path, equals, kind = entry.rpartition("=")
        if not equals:
            path, kind = entry, "objects"
        if kind not in allowed:
            raise ValueError(f"{entry}: {kind!r} is not a kind; write FILE=KIND with one of {', '.join(allowed)}")
        kinds[path] = kind
    concepts = import_concepts(kinds, read_action_names(labels) if labels else None, name=out.stem)
    concepts.save(out)
    _print(f"{out}: {len(concepts.actions)} actions, {len(concepts.descriptions)} descriptions")


@app.command()
def show(
    concepts: ConceptsArgument,
    search: Annotated[str | None, typer.Argument(help="Show only what contains these words.")] = None,
) -> None:
    """Print the actions and descriptions of a concept set."""
    from rich.console import Console

    from verbspace.cli.console.concept_tables import concept_set_table
    from verbspace.concepts.concept_set import ConceptSet

    concept_set = ConceptSet.load(concepts)
    table, count = concept_set_table(concept_set, search)
    if not count:
        raise ValueError(f"{concepts}: no action or description contains {search!r}; search for another word")
    Console().print(table)
    shown = f"{count} of {len(concept_set.actions)} actions" if search else f"{count} actions"
    _print(
        f"{concept_set.name} · {shown} · {len(concept_set.descriptions)} descriptions · "
        f"by {concept_set.provenance.author} · hash {concept_set.hash}"
    )


@app.command()
def lint(
    concepts: ConceptsArgument,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder whose text vectors to check: folder or hub id.", callback=known_encoder)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Maximum number of findings to show per table.")] = 15,
    device: DeviceOption = None,
) -> None:
    """Check the quality of a concept set.

    Reports duplicate, uninformative, missing and overlong sentences. With an encoder, also reports actions that it
    confuses, descriptions that are closer to another action, and actions whose phases are each other's reverse.
    """
    from rich.console import Console

    from verbspace.cli.console.concept_tables import (
        confusable_pairs_table,
        lint_lines,
        misassigned_table,
        opposed_pairs_table,
    )
    from verbspace.cli.console.progress import progress
    from verbspace.concepts.concept_set import ConceptSet
    from verbspace.concepts.lint import confusable_pairs, lint_concepts, misassigned_descriptions
    from verbspace.concepts.opposed import opposed_pairs

    concept_set = ConceptSet.load(concepts)
    if encoder is None:
        report, tables = lint_concepts(concept_set), []
    else:
        from verbspace.models.loading import load_encoder

        video_encoder = load_encoder(encoder, device)
        processor = video_encoder.require_processor()
        report = lint_concepts(concept_set, processor.count_tokens, processor.context_length)
        with progress() as on_progress:
            space = video_encoder.build_concept_space(concept_set, on_progress=on_progress)
        tables = [
            confusable_pairs_table(confusable_pairs(space), top),
            misassigned_table(misassigned_descriptions(space), space, top),
            *([opposed_pairs_table(pairs, space)] if (pairs := opposed_pairs(space)) else []),
        ]
    for line in lint_lines(report, top):
        _print(line)
    for table in tables:
        Console().print()
        Console().print(table)


@app.command()
def suggest(
    videos: Annotated[Path, typer.Argument(help="Folder of videos, or a list file.", callback=existing_videos)],
    encoder: EncoderOption,
    names: Annotated[Path | None, typer.Option(help="Text file of names to choose from. Default: all known.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of actions to suggest.")] = 20,
    device: DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Text file for the names, as input of `concepts write`.", callback=out_file, is_eager=True),
    ] = None,
) -> None:
    """Suggest action names for unlabeled videos.

    Ranks all known action names by the number of videos for which they are the most probable one.
    """
    from rich.console import Console

    from verbspace.cli.console.concept_tables import suggestions_table
    from verbspace.cli.console.progress import progress
    from verbspace.cli.console.terminal import print_error
    from verbspace.concepts.labels import read_action_names
    from verbspace.inference.suggest import suggest as run
    from verbspace.utils.atomic_io import write_text

    with progress() as report:
        result = run(encoder, videos, read_action_names(names) if names else None, device=device, on_progress=report)
    if result.failures.by_path:
        print_error(result.failures.summary(), "warning")
    Console().print(suggestions_table(result, top))
    if out:
        suggested = result.actions[:top]
        write_text(out, "".join(f"{action.name}\n" for action in suggested))
        _print(f"{out}: {len(suggested)} names")
