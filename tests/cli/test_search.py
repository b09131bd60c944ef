"""The `search` command and its output."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.indices import copy_part
from verbspace.cli.console.search_tables import format_hits
from verbspace.cli.main import app
from verbspace.search.schema import Hit
from verbspace.search.searcher import Searcher


def run_search(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, ["search", *(str(one) for one in arguments)])
    return found.exit_code, found.stdout, f"{found.stderr}{found.exception or ''}"


def test_search_prints_tables_and_json_lines(clips: Path, searcher: Searcher) -> None:
    folder = searcher.index.folder
    code, lines, _ = run_search(folder, "waving", "--top", 3, "--format", "jsonl")
    hits = searcher.search("waving", top=3)
    assert code == 0
    found = [json.loads(line) for line in lines.splitlines()]
    assert [hit.pop("missing") for hit in found] == [False] * 3
    assert [Hit(**hit) for hit in found] == hits
    code, text, _ = run_search(folder, "waving", "--top", 1)
    assert re.fullmatch(r" *-?\d\.\d{3}  +\d:\d\d\.\d – \d:\d\d\.\d +\S*0\d\.mp4\n", text)
    assert run_search(folder, "waving", "--where", "start > 99")[1] == "no results\n"
    assert "the query only subtracts" in run_search(folder, "--subtract", "waving")[2]
    assert "must be given together" in run_search(folder, "x", "--format", "html")[2]
    assert "not one of table, jsonl, html" in run_search(folder, "x", "--format", "csv")[2]
    assert run_search(folder, "--similar-to", clips / "01.mp4", "--subtract", "waving", "--per-video")[0] == 0
    (folder / "shards" / "1-of-2").mkdir(parents=True)
    try:
        assert "not merged yet" not in run_search(folder, "x")[2]
        (folder / "shards" / "1-of-2" / "index.json").touch()
        assert "1 shards are not merged yet and are not searched" in run_search(folder, "x")[2]
    finally:
        shutil.rmtree(folder / "shards")


def test_control_characters_in_paths_are_escaped(tmp_path: Path) -> None:
    hits = [Hit("/v/red\x1b[31m\nbox.mp4", 0.0, 1.0, 0.5, 0, 1.0, 25.0)]
    assert list(format_hits(hits)) == [" 0.500     0:00.0 – 0:01.0    /v/red\\x1b[31m\\nbox.mp4  (missing)"]


@pytest.mark.parametrize("query", ["running - outdoors", "running -outdoors"])
def test_a_sign_outside_of_quotes_is_an_error(query: str, searcher: Searcher) -> None:
    code, output, message = run_search(searcher.index.folder, query)
    assert (code, output) == (1, "")
    assert f'the query {query!r} has a sign outside of quotes; write "running" - "outdoors" to add or' in message


def test_search_of_several_indices(clips: Path, full_index: Path, tmp_path: Path) -> None:
    videos = sorted(map(str, clips.glob("*.mp4")))
    one, two = (copy_part(full_index, tmp_path / name, part) for name, part in (("a", videos[:3]), ("b", videos[3:])))
    code, lines, _ = run_search(one, "--also", two, "waving", "--json")
    hits = [json.loads(line) for line in lines.splitlines()]
    expected = [json.loads(line) for line in run_search(full_index, "waving", "--json")[1].splitlines()]
    assert code == 0
    assert [hit.pop("index") for hit in hits] == [str(two if hit["path"] == videos[3] else one) for hit in expected]
    assert hits == expected  # which name no index
    assert f"03.mp4  [{two}]\n" in run_search(one, "--also", two, "waving")[1]
    assert run_search(one, "waving", "--also", two, "--format", "html", "--out", tmp_path / "page.html")[0] == 0
    assert "of the indices a, b, best match" in (tmp_path / "page.html").read_text()
    other = copy_part(full_index, tmp_path / "other", [], encoder_hash="f" * 16)
    code, _, message = run_search(one, "waving", "--also", other)
    assert code == 1
    assert "were built with different encoders" in message
    assert "no index found" in run_search(one, "waving", "--also", tmp_path / "none")[2]
