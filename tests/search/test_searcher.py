from __future__ import annotations

import base64
import json
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from typer.testing import CliRunner

from support.indices import random_index, run_quick_embed, write_clip, write_clips
from verbspace.cli.console.search_tables import format_hits
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.video_encoder import VideoEncoder
from verbspace.reporting.found_clips import extract_window, render_search_page, window_url
from verbspace.search.ann import build_ann_index
from verbspace.search.hits import Hit
from verbspace.search.index import Index
from verbspace.search.query import Term, format_query, parse_query
from verbspace.search.query_encoder import NEGATIVE_WEIGHT, QueryEncoder, build_query_vector
from verbspace.search.schema import FileRows, FileSignature, vectors_to_numpy
from verbspace.search.searcher import Searcher, collect_terms, combine_filters, describe_query
from verbspace.search.vector_search import path_glob_filter, read_ann_config

# The grammar.


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("a person running", [Term("a person running")]),
        ("  running - outdoors ", [Term("running - outdoors")]),  # no quotes: one term
        ('says "hello"', [Term('says "hello"')]),
        ('"running"', [Term("running")]),
        ('"running" - "outdoors"', [Term("running"), Term("outdoors", -1)]),
        ('"a"+"b" − "c" – "d"', [Term("a"), Term("b"), Term("c", -1), Term("d", -1)]),
        ('- "a" + " b "', [Term("a", -1), Term("b")]),
        ("“a” - “b”", [Term("a"), Term("b", -1)]),
        (r'"say \"hi\"" - "\\"', [Term('say "hi"'), Term("\\", -1)]),
    ],
)
def test_queries_as_terms(query: str, terms: list[Term]) -> None:
    assert parse_query(query) == terms


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", r"the query is empty"),
        ("  ", r"the query is empty"),
        ('"a" "b"', r"not understood from '\"b\"' on"),
        ('"a" - b', r"not understood from '- b' on"),
        ('"a" - ', r"not understood from '-' on"),
        ('"a', r"not understood from '\"a' on"),
        ('"a" - ""', r"has an empty term"),
        ('"a" * "b"', r"not understood"),
    ],
)
def test_queries_that_are_not_understood(query: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_query(query)


TEXT = st.text(min_size=1).map(lambda text: re.sub("[“”]", '"', text).strip()).filter(bool)
TERMS = st.lists(st.builds(Term, TEXT, st.sampled_from([1, -1])), min_size=1, max_size=5)


@given(terms=TERMS)
@settings(max_examples=300)
def test_terms_written_are_read_back(terms: list[Term]) -> None:
    assert parse_query(format_query(terms)) == terms


@given(query=st.text())
@settings(max_examples=500)
def test_any_text_is_terms_or_one_sentence(query: str) -> None:
    said, terms = "", []
    try:
        terms = parse_query(query)
    except ValueError as error:
        said = str(error)
    assert bool(terms) != said.startswith("the query ")
    assert all(term.text.strip() == term.text != "" for term in terms)
    assert all(term.sign in (1, -1) for term in terms)


@given(
    parts=st.lists(st.tuples(TEXT, st.sampled_from("+-−–")), min_size=1, max_size=4),
    space=st.sampled_from(["", " ", "\t "]),
)
def test_signs_and_spaces(parts: list[tuple[str, str]], space: str) -> None:
    escaped = [(text, sign, re.sub(r'(["\\])', r"\\\1", text)) for text, sign in parts]
    query = space.join(f'{sign}{space}"{inside}"' for _, sign, inside in escaped)
    assert parse_query(query) == [Term(text, 1 if sign == "+" else -1) for text, sign in parts]


def test_terms_from_options_are_added() -> None:
    assert collect_terms('"a" - "b"', ["c - d"], ["e"]) == [Term("a"), Term("b", -1), Term("c - d"), Term("e", -1)]
    assert collect_terms("", ["a"]) == [Term("a")]
    with pytest.raises(ValueError, match=r"need a text each"):
        collect_terms("a", [" "])
    assert describe_query(collect_terms("a")) == "a"
    assert describe_query([Term("a"), Term("b", -1)], ["x/y.mp4"]) == 'like y.mp4 + "a" - "b"'
    assert describe_query([Term("b", -1)], ["x/y.mp4"]) == 'like y.mp4 - "b"'
    assert describe_query([], ["x/y.mp4"]) == "like y.mp4"


# The arithmetic.


class Letters:
    """Texts as counts of letters, and something that all of them share."""

    concept_set: ConceptSet | None = None

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        counts = torch.tensor([[*(float(text.count(letter)) for letter in "abcdefgh"), 20.0] for text in texts])
        return functional.normalize(counts, dim=1)


def test_a_text_is_its_difference_from_texts_in_general() -> None:
    encoder = Letters()
    words = QueryEncoder(encoder)
    templates = ["a video of a person {}.", "a photo of a person {}.", "a person {}."]

    def mean(text: str, forms: list[str]) -> torch.Tensor:
        return functional.normalize(encoder.encode_text([form.format(text) for form in forms]).mean(0), dim=0)

    centre = torch.stack([mean(name, templates) for name in ConceptSet.load("k400").action_names]).mean(0)
    expected = functional.normalize(mean("bagged {cab}", [*templates, "{}"]) - centre, dim=0)
    torch.testing.assert_close(words.encode(["bagged {cab}"])[0], expected)
    names = ["add", "bead", "cab", "dab", "fed", "gab", "had", "abbe", "egg", "beef"]
    encoder.concept_set = ConceptSet.from_actions(names)
    own = torch.stack([mean(name, list(encoder.concept_set.templates)) for name in names]).mean(0)
    torch.testing.assert_close(QueryEncoder(encoder).center, own)
    encoder.concept_set = ConceptSet.from_actions(["add", "bead"])  # whose mean is not that of texts in general
    torch.testing.assert_close(QueryEncoder(encoder).center, centre)


def test_terms_and_clips_are_summed_with_their_signs() -> None:
    words = QueryEncoder(Letters())
    a, b, c = words.encode(["aaaa", "bbbb", "cccc"])
    found = build_query_vector(words, [Term("aaaa"), Term("bbbb", -1), Term("cccc")])
    torch.testing.assert_close(found, functional.normalize(a - NEGATIVE_WEIGHT * b + c, dim=0))
    torch.testing.assert_close(build_query_vector(words, [Term("aaaa")]), a)
    clip = functional.normalize(torch.randn(9), dim=0)
    torch.testing.assert_close(build_query_vector(words, [], [3 * clip]), clip)
    torch.testing.assert_close(
        build_query_vector(words, [Term("aaaa", -1)], [clip, a]),
        functional.normalize(clip + (1 - NEGATIVE_WEIGHT) * a, dim=0),
    )
    with pytest.raises(ValueError, match=r"only says what to look away from"):
        build_query_vector(words, [Term("aaaa", -1)])
    with pytest.raises(ValueError, match=r"cancel each other out"):
        build_query_vector(words, [Term("aaaa", -1), Term("aaaa", -1), Term("aaaa")])


# The index.


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return random_index(tmp_path_factory.mktemp("random"), 2000)


def by_hand(index: Index, query: np.ndarray) -> list[tuple[str, int, float]]:
    rows = index.table.to_arrow()
    scores = vectors_to_numpy(rows) @ (query / np.linalg.norm(query))
    names = zip(rows["path"].to_pylist(), rows["window"].to_pylist(), scores.tolist(), strict=True)
    return sorted(names, key=lambda row: -row[2])


def test_the_nearest_are_found_exactly(random: Index) -> None:
    query = np.random.default_rng(1).standard_normal(16).astype(np.float32)
    expected = by_hand(random, query)
    for top in (1, 10, 5000):
        hits = random.search(query, top)
        assert [(hit.path, hit.window) for hit in hits] == [row[:2] for row in expected[:top]]
        np.testing.assert_allclose([hit.score for hit in hits], [row[2] for row in expected[:top]], atol=1e-6)
    assert (hits[0].end - hits[0].start, hits[0].duration, hits[0].fps) == (4.0, 16.0, 25.0)


def test_the_best_window_of_each_video(random: Index) -> None:
    query = np.random.default_rng(2).standard_normal(16)
    expected = list(dict.fromkeys(row[0] for row in by_hand(random, query)))
    assert [hit.path for hit in random.search(query, 30, per_video=True)] == expected[:30]
    assert len(random.search(query, 9000, per_video=True)) == 500
    assert [hit.path for hit in random.search(query, 3, "start > 4 AND `window` < 3", per_video=True)] == list(
        dict.fromkeys(row[0] for row in by_hand(random, query) if row[1] == 2)
    )[:3]


NAMES = (
    *("a/b.mp4", "a/bmp4", "a/bx.mp4", "x/it's (1)[2]+.avi", "its 12"),
    *("a/test/sitting", "a/sit/test", "ack\\slash.avi"),
)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("b.mp4", {"a/b.mp4"}),
        ("b*mp4", {"a/b.mp4", "a/bmp4", "a/bx.mp4"}),
        ("b?.mp4", {"a/bx.mp4"}),
        ("it's (1)[2]+", {"x/it's (1)[2]+.avi"}),
        ("test*sit", {"a/test/sitting"}),
        ("ack\\slash", {"ack\\slash.avi"}),
        ("*k\\sl?sh.avi", {"ack\\slash.avi"}),
        ("k?s", {"ack\\slash.avi"}),
    ],
)
def test_path_patterns(pattern: str, found: set[str], tmp_path: Path) -> None:
    index = random_index(tmp_path, 4 * len(NAMES))
    rows = index.table.to_arrow()
    renamed = rows.set_column(0, rows.schema.field("path"), [[name for name in NAMES for _ in range(4)]])
    index.table.delete("true")
    index.add(renamed.to_batches())
    assert {hit.path for hit in index.search(np.ones(16), 99, path_glob_filter(pattern))} == found


def test_filters_join() -> None:
    assert combine_filters() is None
    assert combine_filters("start > 1 OR end < 2", "x", 3, 4.5) == (
        "(start > 1 OR end < 2) AND regexp_like(path, '.*x') AND duration >= 3.0 AND duration <= 4.5"
    )


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_seconds_that_are_no_number(seconds: float) -> None:
    with pytest.raises(ValueError, match="are numbers of seconds"):
        combine_filters(None, None, seconds)


def test_of_equally_near_ones_the_first_by_name_are_shown(tmp_path: Path) -> None:
    made = random_index(tmp_path / "other", 4).manifest
    index = Index.create(tmp_path / "same", made)
    rows = np.eye(16, dtype=np.float32)[:1]
    names = "zyxwvutsrqponmlkjihgfedcba"
    index.write([FileRows(name, FileSignature(1, 1), 25.0, [0.0], [1.0], rows) for name in names], set())
    for top in (1, 2, 7, 26, 40):
        for per_video in (False, True):
            hits = index.search(rows[0], top, per_video=per_video)
            assert [hit.path for hit in hits] == sorted(names)[:top]


def test_queries_that_cannot_be_asked(random: Index) -> None:
    for wrong in (np.ones(15), np.zeros(16), np.full(16, np.nan)):
        with pytest.raises(ValueError, match=r"the query has 1[56] numbers; give 16, finite and not all 0"):
            random.search(wrong)
    with pytest.raises(ValueError, match=r"top: 0 is not above 0"):
        random.search(np.ones(16), 0)


PARTS: list[tuple[str, int, dict[str, Any]]] = [
    ("filtered", 3, {"where": path_glob_filter("a/00007")}),
    ("many", 6000, {}),
    ("videos", 1500, {"per_video": True}),
]


def test_an_approximate_index_is_as_good_as_it_says(tmp_path: Path) -> None:
    index = random_index(tmp_path, 6000, dim=16)
    queries = functional.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    exact = [[(hit.path, hit.window) for hit in index.search(query.numpy(), exact=True)] for query in queries]
    tuned = build_ann_index(index, queries, recall=0.9)
    again = Index.open(tmp_path)
    assert read_ann_config(again) == tuned
    found = [[(hit.path, hit.window) for hit in again.search(query.numpy())] for query in queries]
    share = sum(len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)) / 200
    assert share == pytest.approx(tuned.recall, abs=1e-3)
    assert tuned.recall >= 0.9
    assert [[(hit.path, hit.window) for hit in again.search(q.numpy(), exact=True)] for q in queries] == exact
    # What lists hold too little of is looked for in all rows.
    some = queries[0].numpy()
    whole = {name: [h.path for h in index.search(some, top, exact=True, **how)] for name, top, how in PARTS}
    assert {name: [h.path for h in again.search(some, top, **how)] for name, top, how in PARTS} == whole
    with pytest.raises(ValueError, match=r"has 8 rows; an exact search is quick"):
        build_ann_index(random_index(tmp_path / "few", 8), queries)
    (tmp_path / "tuned.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tuned\.json: Field required; run `verbspace index build-ann"):
        again.search(np.ones(16))


# Searching.


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 4)


@pytest.fixture(scope="module")
def searcher(tiny_clip: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("index")
    run_quick_embed(tiny_clip, clips, folder)
    return Searcher(folder)


def test_the_encoder_is_found_and_checked(tiny_clip: Path, tiny_siglip: Path, searcher: Searcher) -> None:
    folder = searcher.index.folder
    assert Searcher(folder, tiny_clip).search("waving") == searcher.search("waving")
    with pytest.raises(
        ValueError, match=r"by the encoder .* \([0-9a-f]{16}\), but .* is not that one \([0-9a-f]{16}\); give"
    ):
        Searcher(folder, tiny_siglip)
    with pytest.raises(ValueError, match=r"but the encoder given is not that one \("):
        Searcher(folder, VideoEncoder.from_pretrained(tiny_siglip))


def test_an_encoder_that_is_gone_is_asked_for(tmp_path: Path) -> None:
    random_index(tmp_path, 4)
    with pytest.raises(FileNotFoundError, match=r"its encoder is not found .*say where it is with --encoder"):
        Searcher(tmp_path)


def test_words_clips_and_filters_find_what_they_should(clips: Path, searcher: Searcher) -> None:
    hits = searcher.search("a person waving", top=99)
    vector = searcher.query_encoder.encode(["a person waving"])[0].numpy()
    assert [(hit.path, hit.window) for hit in hits] == [row[:2] for row in by_hand(searcher.index, vector)]
    found = searcher.search(similar_to=[clips / "01.mp4"], top=1)[0]
    assert (Path(found.path).name, found.score) == ("01.mp4", pytest.approx(1, abs=1e-5))
    assert searcher.search('"waving" - "running"') == searcher.search("waving", subtract=["running"])
    assert searcher.search('"waving" + "running"') == searcher.search("waving", add=["running"])
    assert {hit.path for hit in searcher.search("x", path="0[03]", top=99)} == set()
    assert {Path(hit.path).name for hit in searcher.search("x", path="03.mp4")} == {"03.mp4"}
    assert {Path(hit.path).name for hit in searcher.search("x", min_duration=2)} == {"00.mp4", "03.mp4"}
    assert {Path(hit.path).name for hit in searcher.search("x", max_duration=2)} == {"01.mp4", "02.mp4"}
    assert {hit.window for hit in searcher.search("x", where="start > 1.5 OR end < 0")} == {2}
    assert len(searcher.search("x", per_video=True)) == 4


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nothing >", r"--where nothing >: .*Expected: an expression"),
        ("colour = 3", r"--where colour = 3: .*No field named colour.*write SQL over path, window, start"),
        ("path = 3", r"--where path = 3: .*could not convert"),
        ("start > 1; drop", r"--where start > 1; drop: give one SQL expression"),
        (" ", r"give one SQL expression"),
        ("1) OR (1 = 1", r"--where 1\) OR"),
        ("true) OR (start > 100", r"give one SQL expression"),
        ("start > 1 -- x", r"give one SQL expression"),
        ("start > 1 /* x", r"give one SQL expression"),
        ("cast(path as int) > 3", r"^the filter \(cast\(path as int\) > 3\): Cast error: Cannot cast.*; change it$"),
        ("`window` % 0 = 1", r"^the filter \(`window` % 0 = 1\): Divide by zero error; change it$"),
    ],
)
def test_a_filter_that_is_wrong_gets_one_sentence(where: str, said: str, searcher: Searcher) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        searcher.search("x", where=where)
    assert "\n" not in str(caught.value)
    assert ".rs" not in str(caught.value)


def test_a_semicolon_in_a_name_is_no_end(searcher: Searcher) -> None:
    assert searcher.search("x", where="path LIKE '%a;b%'") == []


def test_a_running_searcher_sees_what_is_added(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verbspace.search.index._READ_CONSISTENCY_INTERVAL", timedelta(0))
    run_quick_embed(tiny_clip, [str(write_clip(tmp_path / "a.mp4", 1))], tmp_path / "index")
    running = Searcher(tmp_path / "index")
    assert len(running.search("x")) == 1
    run_quick_embed(tiny_clip, [str(write_clip(tmp_path / "b.mp4", 2))], tmp_path / "index")
    assert len(running.search("x")) == 2


# The command and the page.


def ask(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["search", *(str(one) for one in arguments)])
    return found.exit_code, found.stdout, f"{found.stderr}{found.exception or ''}"


def test_the_command_prints_tables_and_lines(clips: Path, searcher: Searcher) -> None:
    folder = searcher.index.folder
    code, lines, _ = ask(folder, "waving", "--top", 3, "--format", "jsonl")
    hits = searcher.search("waving", top=3)
    assert code == 0
    assert [Hit(**json.loads(line)) for line in lines.splitlines()] == hits
    code, text, _ = ask(folder, "waving", "--top", 1)
    assert re.fullmatch(r" *-?\d\.\d{3}  +\d:\d\d\.\d – \d:\d\d\.\d +\S*0\d\.mp4\n", text)
    assert ask(folder, "waving", "--where", "start > 99")[1] == "nothing found\n"
    assert "say what to look for as well" in ask(folder, "--subtract", "waving")[2]
    assert "go together" in ask(folder, "x", "--format", "html")[2]
    assert "none of table, jsonl, html" in ask(folder, "x", "--format", "csv")[2]
    assert ask(folder, "--similar-to", clips / "01.mp4", "--subtract", "waving", "--per-video")[0] == 0
    (folder / "shards" / "1-of-2").mkdir(parents=True)
    try:
        assert "not merged yet" not in ask(folder, "x")[2]  # it was not begun
        (folder / "shards" / "1-of-2" / "index.json").touch()
        assert "1 shards are not merged yet, and not searched" in ask(folder, "x")[2]
    finally:
        shutil.rmtree(folder / "shards")


def test_the_page_links_videos_and_shows_stills(clips: Path, searcher: Searcher, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, said, _ = ask(searcher.index.folder, "<b>waving</b> & more", "--top", 3, "--format", "html", "--out", page)
    assert (code, said) == (0, f"{page}: 3 hits\n")
    text = page.read_text()
    assert "<h1>&lt;b&gt;waving&lt;/b&gt; &amp; more</h1>" in text
    sources = re.findall(r'<video [^>]*src="([^"]+)"', text)
    assert len(sources) == 3
    for source, hit in zip(sources, searcher.search("<b>waving</b> & more", top=3), strict=True):
        path, _, part = source.partition("#t=")
        assert (tmp_path / path).resolve() == Path(hit.path).resolve()
        assert part == f"{hit.start:.3f},{hit.end:.3f}"
    stills = [base64.b64decode(one) for one in re.findall(r'poster="data:image/jpeg;base64,([^"]+)"', text)]
    assert len(stills) == 3
    assert all(still.startswith(b"\xff\xd8") for still in stills)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)


def test_the_page_can_hold_the_clips(clips: Path, searcher: Searcher, tmp_path: Path) -> None:
    hits = searcher.search("waving", top=2, where="`window` = 2")
    text = render_search_page(hits, "waving", tmp_path, index="i", embed_clips=True)
    clips_inside = [base64.b64decode(one) for one in re.findall(r'src="data:video/mp4;base64,([^"]+)"', text)]
    assert len(clips_inside) == 2
    for content in clips_inside:
        (tmp_path / "clip.mp4").write_bytes(content)
        with av.open(str(tmp_path / "clip.mp4")) as file:
            assert sum(1 for _ in file.decode(video=0)) == 10  # a second of ten frames


def test_the_still_is_the_middle(tmp_path: Path) -> None:
    from support.video_files import read_frame_numbers

    path = write_clip(tmp_path / "a.mp4", 0, 3.0)
    still, clip = extract_window(path, Hit(str(path), 1.0, 2.0, 0.5, 1, 3.0, 10.0), embed_clips=False)
    assert clip is None
    assert read_frame_numbers(torch.from_numpy(still).permute(2, 0, 1)[None].numpy()) == [15]
    still, _ = extract_window(path, Hit(str(path), 1.0, 2.0, 0.5, 1, 3.0, 10.0), embed_clips=True)
    assert read_frame_numbers(torch.from_numpy(still).permute(2, 0, 1)[None].numpy()) == [15]


def test_what_browsers_cannot_play_is_not_linked(tmp_path: Path) -> None:
    def address(path: str) -> str | None:
        return window_url(Hit(path, 1.0, 2.5, 0.5, 0, 3.0, 25.0), tmp_path)

    assert address(f"{tmp_path}/a b#%?.mp4") == "a%20b%23%25%3F.mp4#t=1.000,2.500"
    assert address("https://x.org/a.mp4") == "https://x.org/a.mp4#t=1.000,2.500"
    assert address("s3://bucket/a.mp4") is None
    assert address(f"{tmp_path}/a.avi") is None


def test_a_video_that_is_gone_has_its_reason_on_the_page(tmp_path: Path) -> None:
    page = render_search_page([Hit(f"{tmp_path}/<i>.mp4", 0, 1, -0.2, 0, 1, 25)], "x", tmp_path, index="i")
    assert "&lt;i&gt;.mp4: there is no such file" in page
    assert "<i>.mp4" not in page
    assert "Nothing is left after the filters" in render_search_page([], "x", tmp_path, index="i")


def test_names_of_strangers_do_no_harm_on_a_terminal(tmp_path: Path) -> None:
    hits = [Hit("/v/red\x1b[31m\nbox.mp4", 0.0, 1.0, 0.5, 0, 1.0, 25.0)]
    assert list(format_hits(hits)) == [" 0.500     0:00.0 – 0:01.0    /v/red\\x1b[31m\\nbox.mp4"]


def test_a_sum_without_quotes_is_pointed_out(searcher: Searcher) -> None:
    folder = searcher.index.folder
    code, _, said = ask(folder, "running - outdoors")
    assert (code, said.count("read as one text; for a sum or a difference put each term in quotes")) == (0, 1)
    assert "note" not in ask(folder, '"running" - "outdoors"')[2]
