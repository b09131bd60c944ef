"""The query grammar."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verbspace.search.query import Term, collect_terms, describe_query, parse_query


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("a person running", [Term("a person running")]),
        ("  hip-hop, push-ups -", [Term("hip-hop, push-ups -")]),
        ('"running -waving"', [Term("running -waving")]),
        ('says "hello"', [Term('says "hello"')]),
        ('"running"', [Term("running")]),
        ('"running" - "outdoors"', [Term("running"), Term("outdoors", -1)]),
        ('"a"+"b" − "c" – "d"', [Term("a"), Term("b"), Term("c", -1), Term("d", -1)]),
        ('- "a" + " b "', [Term("a", -1), Term("b")]),
        ('\t−"a"\t +"b"– "c" ', [Term("a", -1), Term("b"), Term("c", -1)]),
        ("“a” - “b”", [Term("a"), Term("b", -1)]),
        (r'"say \"hi\"" - "\\"', [Term('say "hi"'), Term("\\", -1)]),
    ],
)
def test_parse_query(query: str, terms: list[Term]) -> None:
    assert parse_query(query) == terms


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ('"a" "b"', r"cannot be parsed from '\"b\"' on"),
        ('"a" - b', r"cannot be parsed from '- b' on"),
        ('"a" - ', r"cannot be parsed from '-' on"),
        ('"a', r"cannot be parsed from '\"a' on"),
        ('"a" - ""', r"has an empty term"),
        ('"a" * "b"', r"cannot be parsed"),
        ("running -waving", r"sign outside of quotes; write \"running\" - \"waving\" to add or subtract, or put all"),
        ("running - outdoors", r'write "running" - "outdoors" to'),
        ("running −waving hands +jumping", r'write "running" - "waving hands" \+ "jumping" to'),
        ("-waving", r'write - "waving" to'),
        ('running -"waving"', r'write "running" - "waving" to'),
        ('running "waving', r"""'running "waving' has a quote that is not closed"""),
        ("running “waving", r"has a quote that is not closed"),
    ],
)
def test_parse_query_errors(query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_query(query)


@given(query=st.text())
@settings(max_examples=500)
def test_any_text_is_parsed_or_gives_an_error(query: str) -> None:
    try:
        terms = parse_query(query)
    except ValueError:
        return
    assert bool(terms) == bool(query.strip())
    assert all(term.text.strip() == term.text != "" for term in terms)
    assert all(term.sign in (1, -1) for term in terms)


def test_collect_and_describe_terms() -> None:
    assert collect_terms('"a" - "b"', ["c - d"], ["e"]) == [Term("a"), Term("b", -1), Term("c - d"), Term("e", -1)]
    assert collect_terms("", ["a"]) == [Term("a")]
    with pytest.raises(ValueError, match=r"a text to add or subtract is empty"):
        collect_terms("a", [" "])
    with pytest.raises(ValueError, match=r"the query '\\ud800x' is not valid UTF-8"):
        collect_terms("\ud800x")
    assert describe_query(collect_terms("a")) == "a"
    assert describe_query([Term("a"), Term("b", -1)], ["x/y.mp4"]) == 'like y.mp4 + "a" - "b"'
    assert describe_query([Term("b", -1)], ["x/y.mp4"]) == 'like y.mp4 - "b"'
    assert describe_query([], ["x/y.mp4"]) == "like y.mp4"
