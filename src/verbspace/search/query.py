r"""Query grammar: terms in quotes, joined by plus and minus signs.

    query  =  [sign] term { sign term }  |  any text without signs between words, which is one term
    sign   =  "+" | "-" | "−" | "–"
    term   =  '"' characters '"'

In a term, \" and \\ are a quote and a backslash. The quotes “ and ” work as well. A text is parsed as terms if its
first character, after an optional sign, is a quote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from verbspace.utils.text import is_utf8_encodable

_SIGNS = {"+": 1, "-": -1, "−": -1, "–": -1}
_TERM = re.compile(r'\s*(?P<sign>[+\-−–])?\s*["“”](?P<text>(?:\\["\\]|[^"“”\\])*)["“”]\s*')
_SIGN = re.compile(r"(?:^|(?<=\s))[+\-−–]\s*(?=\S)")  # at the start of a word or between two
_QUOTE = re.compile(r'["“”]')
_QUOTED_START = re.compile(r'\s*[+\-−–]?\s*["“”]')


class Term(NamedTuple):
    """A text, and its sign: 1 to add its vector, -1 to subtract it."""

    text: str
    sign: int = 1


def parse_query(query: str) -> list[Term]:
    """Parse a query into its terms, or raise ValueError with the part that cannot be parsed.

    A sign outside of quotes is an error, because the text as a whole would find what the sign should exclude. So is a
    quote that is not closed.
    """
    if not _QUOTED_START.match(query):
        return _parse_text(query.strip())
    terms: list[Term] = []
    position = 0
    while position < len(query):
        match = _TERM.match(query, position)
        if match is None or (terms and match["sign"] is None):
            raise ValueError(
                f"the query cannot be parsed from {query[position:].strip()!r} on; put each term in quotes, with + or "
                '- between: "running" - "outdoors"'
            )
        text = re.sub(r"\\(.)", r"\1", match["text"]).strip()
        if not text:
            raise ValueError(f"the query {query.strip()!r} has an empty term; write a text between the quotes")
        terms.append(Term(text, _SIGNS[match["sign"] or "+"]))
        position = match.end()
    return terms


def _parse_text(text: str) -> list[Term]:
    if len(_QUOTE.findall(text)) % 2:
        raise ValueError(f"the query {text!r} has a quote that is not closed; close it, or remove it")
    if _SIGN.search(text):
        signs = [sign.strip() for sign in _SIGN.findall(text)]
        first, *others = (_QUOTE.sub("", part).strip() for part in _SIGN.split(text))
        terms = [f'"{first}"'] * bool(first)
        terms += [f'{"+" if _SIGNS[sign] > 0 else "-"} "{part}"' for sign, part in zip(signs, others, strict=True)]
        raise ValueError(
            f"the query {text!r} has a sign outside of quotes; write {' '.join(terms)} to add or subtract, or put all "
            "of it in quotes if the sign belongs to the text"
        )
    return [Term(text)] if text else []


def collect_terms(query: str | Sequence[Term], add: Sequence[str] = (), subtract: Sequence[str] = ()) -> list[Term]:
    """Return the terms of a query, followed by one term per text to add or subtract."""
    terms = parse_query(query) if isinstance(query, str) else list(query)
    terms += [*(Term(text.strip()) for text in add), *(Term(text.strip(), -1) for text in subtract)]
    for term in terms:
        if not term.text:
            raise ValueError("a text to add or subtract is empty; write a text, or leave the option out")
        if not is_utf8_encodable(term.text):
            raise ValueError(f"the query {term.text!r} is not valid UTF-8; write it in UTF-8")
    return terms


def validate_not_empty(terms: Sequence[Term], similar_to: Sequence[str | Path] = ()) -> None:
    """Raise ValueError if a query has neither terms nor clips."""
    if not terms and not similar_to:
        raise ValueError("the query is empty; give a text, a text to add, or a clip to search for similar ones")


def describe_query(terms: Sequence[Term], similar_to: Sequence[str | Path] = ()) -> str:
    """Describe a query in one line, for headings."""
    if len(terms) == 1 and not similar_to and terms[0].sign > 0:
        return terms[0].text
    parts = [f"+ like {Path(path).name}" for path in similar_to]
    parts += [f'{"-" if term.sign < 0 else "+"} "{term.text}"' for term in terms]
    return " ".join(parts).removeprefix("+ ")
