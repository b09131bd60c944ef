"""`verbspace concepts`: write, import, show, check and suggest words. Wiring, and nothing but wiring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verbspace.concepts.concept_set import DescriptionKind

app = typer.Typer(
    help="The words of the concept space: write, import, show, check, suggest.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
LabelsOption = Annotated[Path | None, typer.Option(help="The data set's class names in its order, one a line.")]


@app.command()
def write(
    actions: Annotated[Path, typer.Argument(help="Text file with an action a line.")],
    out: Annotated[Path, typer.Option(help="Concept set to write (JSON).")],
    model: Annotated[str | None, typer.Option(help="The model's name at the endpoint.")] = None,
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint; OpenAI's own if not given.")] = None,
    local_model: Annotated[str | None, typer.Option(help="Text-generation checkpoint in place of an endpoint.")] = None,
    min_per_kind: Annotated[int, typer.Option(min=1, max=10, help="Sentences of each kind, at least.")] = 2,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Of the model's sampling.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=100, help="Longest reply.")] = 2000,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    max_attempts: Annotated[int, typer.Option(min=1, help="Askings for an action until it is given up.")] = 3,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds of silence until a request is tried again.")] = 120,
    retries: Annotated[int, typer.Option(min=0, help="Tries after a failed request, with growing pauses.")] = 4,
    cache: Annotated[Path | None, typer.Option(help="Folder in which replies are kept.")] = None,
) -> None:
    """Have a language model describe each action. Run again, it asks only for what is missing.

    The key is taken from the environment variable OPENAI_API_KEY.
    """
    from rich.console import Console

    from verbspace.cli.console.progress import progress
    from verbspace.concepts.generation.llm_clients import LanguageModel, OpenAIClient, TransformersClient
    from verbspace.concepts.generation.writer import generate_concepts, read_actions

    names = read_actions(actions)
    if (local_model is None) == (model is None):
        raise ValueError(
            "give --model (with --base-url for another server than OpenAI's), or --local-model, and not both"
        )
    writer: LanguageModel
    if local_model is not None:
        writer = TransformersClient(local_model, temperature=temperature, max_tokens=max_tokens)
    else:
        assert model is not None
        writer = OpenAIClient(
            model, base_url, temperature=temperature, max_tokens=max_tokens, timeout=timeout, max_retries=retries
        )  # fmt: skip
    with progress() as say:
        found = generate_concepts(
            names, writer, name=out.stem, min_per_kind=min_per_kind, max_attempts=max_attempts, concurrency=concurrency, cache=cache,
            on_progress=lambda done, total, action: say("write", done, total, {}),
        )  # fmt: skip
    console = Console(soft_wrap=True)
    if found.concepts is not None:
        found.concepts.save(out)
        held = found.concepts
        described = f"{len(held.actions)} of {len(names)} actions, {len(held.descriptions)} sentences"
        spent = f"{found.num_requests} requests, {found.num_cached} actions kept from before, {found.num_dropped_sentences} sentences left out"
        console.print(f"{out}: {described} ({spent})", markup=False, highlight=False)
    if found.failures:
        reasons = "\n".join(f"  {action}: {reason}" for action, reason in found.failures.items())
        raise ValueError(
            f"{len(found.failures)} of {len(names)} actions failed; the same command asks for these again:\n{reasons}"
        )


@app.command("import")
def import_(
    files: Annotated[list[str], typer.Argument(help="JSON files: FILE, or FILE=KIND (motion, pose, objects, scene).")],
    out: Annotated[Path, typer.Option(help="Concept set to write (JSON).")],
    labels: LabelsOption = None,
) -> None:
    """Read descriptors in the shapes of CuPL, Menon and Vondrick, OST or FROSTER."""
    from rich.console import Console

    from verbspace.concepts.generation.reply_parser import DESCRIPTION_KINDS
    from verbspace.concepts.generation.writer import read_actions
    from verbspace.concepts.importers import import_concepts

    kinds: dict[str | Path, DescriptionKind] = {}
    for entry in files:
        path, equals, kind = entry.rpartition("=")
        if not equals:
            path, kind = entry, "objects"
        if kind not in DESCRIPTION_KINDS:
            raise ValueError(
                f"{entry}: {kind!r} is no kind; write FILE=KIND with one of {', '.join(DESCRIPTION_KINDS)}"
            )
        kinds[path] = kind
    found = import_concepts(kinds, read_actions(labels) if labels else None, name=out.stem)
    found.save(out)
    said = f"{out}: {len(found.actions)} actions, {len(found.descriptions)} descriptions"
    Console(soft_wrap=True).print(said, markup=False, highlight=False)


@app.command()
def show(
    concepts: Annotated[str, typer.Argument(help="Concept set: bundled name or JSON file.")],
    search: Annotated[str | None, typer.Argument(help="Show only what holds these words.")] = None,
) -> None:
    """Print a concept set's actions and descriptions."""
    from rich.console import Console

    from verbspace.cli.console.concept_tables import concept_set_table
    from verbspace.concepts.concept_set import ConceptSet

    chosen = ConceptSet.load(concepts)
    table, count = concept_set_table(chosen, search)
    console = Console()
    if not count:
        raise ValueError(f"{concepts}: nothing holds {search!r}; search for another word")
    console.print(table)
    shown = f"{count} of {len(chosen.actions)} actions" if search else f"{len(chosen.actions)} actions"
    by = chosen.provenance.author
    facts = f"{chosen.name} · {shown} · {len(chosen.descriptions)} descriptions · by {by} · hash {chosen.hash}"
    console.print(facts, markup=False, highlight=False, soft_wrap=True)


@app.command()
def lint(
    concepts: Annotated[str, typer.Argument(help="Concept set: bundled name or JSON file.")],
    encoder: Annotated[str | None, typer.Option(help="Encoder whose text tower is to tell the words apart.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of each finding to show.")] = 15,
) -> None:
    """Find what to rewrite: repeated, thin, missing and overlong sentences; with an encoder, also actions that it
    takes for one another and descriptions that are nearer to another action.
    """
    from rich.console import Console

    from verbspace.cli.console.concept_tables import confusable_pairs_table, lint_lines, misassigned_table
    from verbspace.concepts.concept_set import ConceptSet
    from verbspace.concepts.confusable import confusable_pairs, misassigned_descriptions
    from verbspace.concepts.lint import lint_concepts

    chosen, console = ConceptSet.load(concepts), Console()
    if encoder is None:
        found = lint_concepts(chosen)
    else:
        from verbspace.models.video_encoder import VideoEncoder

        loaded = VideoEncoder.from_pretrained(encoder)
        words = loaded.require_processor()
        found = lint_concepts(chosen, words.count_tokens, words.context_length)
    for line in lint_lines(found, top):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if encoder is not None:
        space = loaded.build_concept_space(chosen)
        for table in (
            confusable_pairs_table(confusable_pairs(space), top),
            misassigned_table(misassigned_descriptions(space), space, top),
        ):
            console.print()
            console.print(table)


@app.command()
def suggest(
    videos: Annotated[Path, typer.Argument(help="Folder of videos, or a list file.")],
    encoder: Annotated[str, typer.Option(help="Encoder: folder or hub id.")],
    names: Annotated[
        Path | None, typer.Option(help="Action names to choose among, one a line; else all known.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many actions to propose.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Text file for the proposed names, for `concepts write`.")] = None,
) -> None:
    """Propose a vocabulary for unlabelled videos: which of all known action names fire, how sure, and where."""
    from rich.console import Console

    from verbspace.cli.console.concept_tables import suggestions_table
    from verbspace.cli.console.progress import progress
    from verbspace.concepts.generation.writer import read_actions
    from verbspace.inference.suggest import suggest as run
    from verbspace.utils.atomic_io import write_text

    with progress() as say:
        found = run(encoder, videos, read_actions(names) if names else None, on_progress=say)
    if found.failures.by_path:
        Console(stderr=True).print(found.failures.summary(), markup=False)
    console = Console()
    console.print(suggestions_table(found, top))
    if out:
        write_text(out, "".join(f"{action.name}\n" for action in found.actions[:top]))
        console.print(f"{out}: {min(top, len(found.actions))} names", markup=False, highlight=False)
