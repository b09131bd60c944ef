"""Terminal output for concept sets. Their texts are wrapped in `Text`, so that rich does not interpret markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.table import Column, Table
from rich.text import Text

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.labels import label_to_phrase
from verbspace.concepts.lint import MIN_DISTINCT_4GRAMS, ConfusablePair, LintReport, MisassignedDescription
from verbspace.concepts.opposed import OpposedPair
from verbspace.concepts.space import ConceptSpace
from verbspace.concepts.text import tokenize_words
from verbspace.inference.suggest import SuggestionReport


def concept_set_table(concepts: ConceptSet, search: str | None = None) -> tuple[Table, int]:
    """Return a table of the actions and their descriptions, and the number of actions in it.

    With `search`, it has the descriptions that contain all of its words, and all descriptions of the actions whose
    name contains them.
    """
    table = Table("action", "kind", "description")
    search_words = tokenize_words(search or "")

    def matches(text: str) -> bool:
        return set(search_words) <= set(tokenize_words(text))

    count = 0
    for action in concepts.actions:
        descriptions = [d for d in concepts.descriptions if action.name in d.actions]
        if not matches(f"{action.name} {label_to_phrase(action.class_label)}"):
            descriptions = [d for d in descriptions if matches(d.text)]
            if not descriptions:
                continue
        count += 1
        names = [Text(action.name, "bold"), *([Text(action.label, "dim")] if action.label is not None else [])]
        cells = [(Text(f"{d.kind}, {d.phase}" if d.phase else d.kind, "dim"), Text(d.text)) for d in descriptions]
        for _, text in cells:
            text.highlight_words(search_words, style="reverse", case_sensitive=False)
        for name, cell in zip_longest(names, cells):
            table.add_row(name, *(cell or ()))
        table.add_section()
    return table, count


def lint_lines(report: LintReport, top: int) -> Iterator[str]:
    """Format a lint report as a summary line and at most `top` issues."""
    verdict = f" (below {MIN_DISTINCT_4GRAMS}: templated sentences)" if report.is_templated else ""
    yield (
        f"{report.num_actions} actions, {report.num_descriptions} descriptions; "
        f"distinct 4-grams {report.distinct_4gram_ratio:.2f}{verdict}; {len(report.duplicates)} duplicates, "
        f"{len(report.shared_sentences)} shared by actions, {len(report.uninformative)} uninformative, "
        f"{len(report.missing_kinds)} kinds missing, {len(report.too_long)} too long"
    )
    if report.directional:
        yield "directional: left and right distinguish actions, so videos are not flipped in training"
    issues = list(report.issues())
    yield from (f"  {issue}" for issue in issues[:top])
    if len(issues) > top:
        yield f"  and {len(issues) - top} more"


def confusable_pairs_table(pairs: Sequence[ConfusablePair], top: int) -> Table | str:
    """Format the pairs of actions that the encoder confuses, at most `top`."""
    if not pairs:
        return "Confusable actions: none"
    numbers = Column("cosine", justify="right"), Column("confusion", justify="right")
    table = Table("action", "and", *numbers, title=f"Confusable actions: {len(pairs)} pairs", title_justify="left")
    for pair in pairs[:top]:
        second = f"{pair.second} (mirrored)" if pair.mirrored else pair.second
        table.add_row(Text(pair.first), Text(second), f"{pair.cosine:.3f}", f"{100 * pair.confusion:.0f}%")
    table.caption = "rename them by what is visible, or merge them"
    if any(pair.mirrored for pair in pairs[:top]):
        table.caption += "; keep mirrored pairs: texts hardly distinguish left from right, but videos do"
    return table


def misassigned_table(misassigned: Sequence[MisassignedDescription], space: ConceptSpace, top: int) -> Table | str:
    """Format the descriptions that are closer to another action, at most `top`, and the actions with most of them."""
    title = f"Descriptions closer to another action: {len(misassigned)} of {len(space.description_texts)}"
    if not misassigned:
        return title
    description_column, margin_column = Column("description", ratio=3), Column("margin", justify="right")
    table = Table(description_column, "action", "closer to", margin_column, title=title, title_justify="left")
    for description in misassigned[:top]:
        names = Text(description.action), Text(description.nearest_action)
        table.add_row(Text(description.text), *names, f"{description.margin:.2f}")
    totals = dict(zip(space.action_names, space.description_action_mask.sum(0).tolist(), strict=True))
    counts = Counter(description.action for description in misassigned)
    worst = ", ".join(f"{name} ({count} of {totals[name]})" for name, count in counts.most_common(5))
    table.caption = Text(f"describe what only their own action shows; rewrite first: {worst}")
    return table


def opposed_pairs_table(pairs: Sequence[OpposedPair], space: ConceptSpace) -> Table:
    """Format the actions whose phases are each other's reverse."""
    title = f"Opposed in time: {len(pairs)} pairs"
    table = Table("action", "and", Column("direction cosine", justify="right"), title=title, title_justify="left")
    for pair in pairs:
        names = Text(space.action_names[pair.first]), Text(space.action_names[pair.second])
        table.add_row(*names, f"{pair.cosine:.2f}")
    table.caption = "a reversal has -1; `evaluate --protocol order` measures these pairs"
    return table


def suggestions_table(report: SuggestionReport, top: int) -> Table:
    """Format the suggested actions with example videos, at most `top`."""
    actions = report.actions[:top]
    title = f"{len(actions)} names cover {100 * report.coverage(top):.0f}% of {report.num_videos} videos"
    numbers = Column("videos", justify="right"), Column("probability", justify="right")
    texts = Column("examples", overflow="fold"), Column("synonyms", style="dim")
    table = Table(Column("action", style="bold"), *numbers, *texts, title=title, title_justify="left")
    for action in actions:
        examples = "\n".join("/".join(path.parts[-2:]) for path in action.examples)
        synonyms = ", ".join(action.synonyms[:3])
        probability = f"{100 * action.probability:.0f}%"
        table.add_row(Text(action.name), str(action.num_videos), probability, Text(examples), Text(synonyms))
    return table
