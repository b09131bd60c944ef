"""Words in the terminal: concept sets, what is wrong with them, and proposals. Texts are printed as they are, never
as markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.confusable import ConfusablePair, MisassignedDescription
from verbspace.concepts.labels import label_to_phrase, tokenize_words
from verbspace.concepts.lint import MIN_DISTINCT_4GRAMS, LintReport
from verbspace.concepts.space import ConceptSpace
from verbspace.inference.suggest import SuggestionReport


def concept_set_table(concepts: ConceptSet, search: str | None = None) -> tuple[Table, int]:
    """Actions with their descriptions by kind, or those that hold all words of `search`; and how many actions."""
    table = Table("action", "kind", "description")
    wanted = tokenize_words(search or "")
    count = 0
    for action in concepts.actions:
        own = [d for d in concepts.descriptions if action.name in d.actions]
        named = all(word in tokenize_words(f"{action.name} {label_to_phrase(action.class_label)}") for word in wanted)
        shown = own if named else [d for d in own if all(word in tokenize_words(d.text) for word in wanted)]
        if not (named or shown):
            continue
        count += 1
        heads = [Text(action.name, "bold"), *([Text(action.label, "dim")] if action.label is not None else [])]
        for place in range(max(len(shown), len(heads))):
            head = heads[place] if place < len(heads) else Text("")
            kind, text = (Text(shown[place].kind, "dim"), Text(shown[place].text)) if place < len(shown) else ("", "")
            if isinstance(text, Text):
                text.highlight_words(wanted, style="reverse", case_sensitive=False)
            table.add_row(head, kind, text)
        table.add_section()
    return table, count


def lint_lines(report: LintReport, top: int) -> Iterator[str]:
    """Figures in a line, then the faults."""
    verdict = (
        ""
        if report.distinct_4gram_ratio >= MIN_DISTINCT_4GRAMS
        else f" (below {MIN_DISTINCT_4GRAMS}: reads like a template)"
    )
    yield (
        f"{report.num_actions} actions, {report.num_descriptions} descriptions; distinct 4-grams {report.distinct_4gram_ratio:.2f}{verdict}; "
        f"{len(report.duplicates)} repeated, {len(report.shared_sentences)} shared by actions, {len(report.uninformative)} thin, "
        f"{len(report.missing_kinds)} kinds missing, {len(report.too_long)} too long"
    )
    faults = list(report.issues())
    yield from (f"  {fault}" for fault in faults[:top])
    if len(faults) > top:
        yield f"  and {len(faults) - top} more"


def confusable_pairs_table(pairs: Sequence[ConfusablePair], top: int) -> Table | str:
    """Actions that the encoder takes for one another."""
    if not pairs:
        return "Actions taken for one another: none"
    table = Table(title=f"Actions taken for one another: {len(pairs)} pairs", title_justify="left")
    for column in ("action", "and"):
        table.add_column(column)
    for column in ("cosine", "share of the other"):
        table.add_column(column, justify="right")
    for pair in pairs[:top]:
        table.add_row(Text(pair.first), Text(pair.second), f"{pair.cosine:.3f}", f"{100 * pair.confusion:.0f}%")
    table.caption = "give them names that differ in what is seen, or make them one"
    return table


def misassigned_table(misassigned: Sequence[MisassignedDescription], space: ConceptSpace, top: int) -> Table | str:
    """Descriptions that are nearer to another action, and the actions that have most of them."""
    head = f"Descriptions nearer to another action: {len(misassigned)} of {len(space.description_texts)}"
    if not misassigned:
        return head
    table = Table(title=head, title_justify="left")
    table.add_column("description", ratio=3)
    table.add_column("of")
    table.add_column("nearer to")
    table.add_column("by", justify="right")
    for stray in misassigned[:top]:
        table.add_row(Text(stray.text), Text(stray.action), Text(stray.nearest_action), f"{stray.margin:.2f}")
    counts = Counter(stray.action for stray in misassigned)
    total = dict(zip(space.action_names, space.description_action_mask.sum(0).tolist(), strict=True))
    worst = ", ".join(f"{name} ({number} of {total[name]})" for name, number in counts.most_common(5))
    table.caption = Text(f"say what only their own action shows; rewrite first: {worst}")
    return table


def suggestions_table(report: SuggestionReport, top: int) -> Table:
    """Proposed actions with the clips that speak for them."""
    shown = report.actions[:top]
    title = f"{len(shown)} names cover {100 * report.coverage(top):.0f}% of {report.num_videos} videos"
    table = Table(title=title, title_justify="left")
    table.add_column("action", style="bold")
    table.add_column("videos", justify="right")
    table.add_column("how sure", justify="right")
    table.add_column("for example", overflow="fold")
    table.add_column("or", style="dim")
    for action in shown:
        paths = "\n".join("/".join(path.parts[-2:]) for path in action.examples)
        also = ", ".join(action.synonyms[:3])
        sure = f"{100 * action.probability:.0f}%"
        table.add_row(Text(action.name), str(action.num_videos), sure, Text(paths), Text(also))
    return table
