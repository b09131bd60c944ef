"""The grammar of queries: terms in quotes, joined by plus and minus.

    query  =  [sign] term { sign term }  |  any other text, which is one term
    sign   =  "+" | "-" | "−" | "–"
    term   =  '"' characters '"'         in which \\" and \\\\ stand for a quote and a backslash; “ and ” are quotes too

A text is read as terms where its first character, a sign aside, is a quote.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_SIGNS = {"+": 1, "-": -1, "−": -1, "–": -1}
_TERM = re.compile(r'\s*(?P<sign>[+\-−–])?\s*["“”](?P<text>(?:\\["\\]|[^"“”\\])*)["“”]\s*')
_QUOTED_START = re.compile(r'\s*[+\-−–]?\s*["“”]')


class Term(NamedTuple):
    """A text, and 1 or -1: whether it is looked for or looked away from."""

    text: str
    sign: int = 1


def parse_query(query: str) -> list[Term]:
    """A query's terms. Raises ValueError that shows where it is not understood."""
    if not _QUOTED_START.match(query):
        text = query.strip()
        if not text:
            raise ValueError("the query is empty; say what to look for")
        return [Term(text)]
    terms: list[Term] = []
    place = 0
    while place < len(query):
        found = _TERM.match(query, place)
        if found is None or (terms and found["sign"] is None):
            raise ValueError(
                f"the query is not understood from {query[place:].strip()!r} on; put each term in quotes, with + or - "
                'between: "running" - "outdoors"'
            )
        text = re.sub(r"\\(.)", r"\1", found["text"]).strip()
        if not text:
            raise ValueError(f"the query {query.strip()!r} has an empty term; write something between the quotes")
        terms.append(Term(text, _SIGNS[found["sign"] or "+"]))
        place = found.end()
    return terms


def format_query(terms: Sequence[Term]) -> str:
    """Terms as a query that `parse` reads back; one alone without quotes where that says the same."""
    if len(terms) == 1 and terms[0].sign == 1 and not _QUOTED_START.match(terms[0].text):
        return terms[0].text
    parts = []
    for n, term in enumerate(terms):
        text = re.sub(r'(["\\])', r"\\\1", term.text.replace("“", '"').replace("”", '"'))
        sign = "-" if term.sign < 0 else "+" if n else ""
        parts.append(f'{sign} "{text}"' if sign else f'"{text}"')
    return " ".join(parts)
