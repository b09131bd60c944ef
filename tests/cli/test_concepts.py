"""`verbspace concepts`: what the commands pass on, print and refuse."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support.language_models import VALID_REPLY, ScriptedServer, completion_response, reply_about, reply_json
from support.playground_files import tiny_world
from verbspace.cli import main
from verbspace.concepts.concept_set import ConceptSet
from verbspace.playground.actions import ACTIONS


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("VERBSPACE_CACHE", str(tmp_path / "cache"))


def run(*arguments: object, width: int = 200) -> str:
    found = CliRunner().invoke(main.app, ["concepts", *map(str, arguments)], env={"COLUMNS": str(width)})
    assert found.exit_code == 0, found.output + str(found.exception)
    return found.stdout


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Standard error of a command that fails, in one sentence."""
    monkeypatch.setattr(sys, "argv", ["verbspace", "concepts", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 1
    return capsys.readouterr().err


def answering(request: dict[str, Any], number: int) -> Any:
    return completion_response(reply_about(json.loads(request["messages"][1]["content"].removeprefix("The action: "))))


def test_write_saves_a_set_and_says_what_it_took(tmp_path: Path) -> None:
    (tmp_path / "actions.txt").write_text("waving\nbowing\n")
    out = tmp_path / "mine.json"
    with ScriptedServer(answering) as server:
        given = ("write", tmp_path / "actions.txt", "--out", out, "--model", "m", "--base-url", server.url)
        said = run(*given, "--temperature", 0.1, "--max-tokens", 900)
        again = run(*given, "--temperature", 0.1, "--max-tokens", 900)
    assert f"{out}: 2 of 2 actions, 10 sentences (2 requests, 0 actions kept from before, 0 sentences left out)" in said
    assert "(0 requests, 2 actions kept from before" in again
    assert ConceptSet.load(out).action_names == ["waving", "bowing"]
    assert ConceptSet.load(out).name == "mine"
    assert len(server.requests) == 2
    assert (server.requests[0]["temperature"], server.requests[0]["max_tokens"]) == (0.1, 900)
    assert (tmp_path / "cache" / "replies").is_dir()


def test_write_names_what_failed_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "actions.txt").write_text("waving\nbowing\n")
    out = tmp_path / "mine.json"

    def answer(request: dict[str, Any], number: int) -> Any:
        return (
            completion_response("no") if "bowing" in request["messages"][1]["content"] else answering(request, number)
        )

    with ScriptedServer(answer) as server:
        given = ("write", tmp_path / "actions.txt", "--out", out, "--model", "m", "--base-url", server.url)
        said = refused(monkeypatch, capsys, *given, "--max-attempts", 1)
    assert "1 of 2 actions failed; the same command asks for these again:\n  bowing: the reply holds no JSON" in said
    assert ConceptSet.load(out).action_names == ["waving"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "give --model"),
        (("--model", "m", "--local-model", "folder"), "give --model"),
        (("--model", "m"), "OPENAI_API_KEY"),
        (("--local-model", "no-such-folder/here"), "is not a text-generation checkpoint"),
    ],
)
def test_write_needs_one_model(
    arguments: tuple[str, ...],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "actions.txt").write_text("waving\n")
    assert why in refused(
        monkeypatch, capsys, "write", tmp_path / "actions.txt", "--out", tmp_path / "mine.json", *arguments
    )
    assert not (tmp_path / "mine.json").exists()


def test_import_takes_kinds_and_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("YoYo\nWritingOnBoard\n")
    (tmp_path / "spatial.json").write_text(json.dumps({"0": ["a string"], "1": ["a board"]}))
    (tmp_path / "temporal.json").write_text(json.dumps({"0": ["it drops"], "1": ["chalk moves"]}))
    out = tmp_path / "ost.json"
    files = (f"{tmp_path / 'spatial.json'}=scene", f"{tmp_path / 'temporal.json'}=motion")
    assert "2 actions, 4 descriptions" in run("import", *files, "--labels", tmp_path / "labels.txt", "--out", out)
    found = ConceptSet.load(out)
    assert found.labels == ["YoYo", "WritingOnBoard"]
    assert {d.text: d.kind for d in found.descriptions}["It drops."] == "motion"
    said = refused(monkeypatch, capsys, "import", f"{tmp_path / 'spatial.json'}=taste", "--out", out)
    assert "'taste' is no kind; write FILE=KIND with one of motion, pose, objects, scene" in said


def test_show_prints_all_or_what_holds_the_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    every = run("show", "playground")
    concepts = ConceptSet.load("playground")
    assert all(name in every for name in ACTIONS)
    assert all(description.text in every for description in concepts.descriptions)
    assert f"20 actions · 124 descriptions · by {concepts.provenance.author} · hash {concepts.hash}" in every
    some = run("show", "playground", "Forearm swings")
    assert "A raised forearm swings from side to side." in some
    assert "1 of 20 actions" in some
    assert "clapping" not in some
    named = run("show", "playground", "waving")
    assert named.count("motion") == sum(d.kind == "motion" and "waving" in d.actions for d in concepts.descriptions)
    assert "nothing holds 'zebra'" in refused(monkeypatch, capsys, "show", "playground", "zebra")


def test_show_prints_markup_as_it_is(tmp_path: Path) -> None:
    text = "A [bold red]hand[/bold red] and [link=x]an arm[/link]."
    content = {
        "format": "verbspace-concepts/1", "name": "[red]x[/red]", "actions": [{"name": "[b]waving[/b]"}],
        "descriptions": [{"text": text, "kind": "pose", "actions": ["[b]waving[/b]"]}],
        "provenance": {"author": "[i]me[/i]"},
    }  # fmt: skip
    (tmp_path / "set.json").write_text(json.dumps(content))
    said = run("show", tmp_path / "set.json")
    assert text in said
    assert "[b]waving[/b]" in said
    assert "[red]x[/red] · 1 actions" in said
    assert text in run("check", tmp_path / "set.json") or "missing" in run("check", tmp_path / "set.json")


def test_check_without_and_with_an_encoder(tmp_path: Path) -> None:
    ConceptSet.load("playground").save(tmp_path / "set.json")
    plain = run("check", tmp_path / "set.json")
    assert "20 actions, 124 descriptions; distinct 4-grams 0.93" in plain
    assert "nearer to another" not in plain
    full = run("check", tmp_path / "set.json", "--encoder", "playground", "--top", 2)
    assert "Actions taken for one another: none" in full
    assert "Descriptions nearer to another action: 36 of 124" in full
    assert "rewrite first: standing up (5 of 7)" in full


def test_suggest_prints_and_writes_names(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (tmp_path / "names.txt").write_text("\n".join(ACTIONS))
    videos = tiny_world(tmp_path_factory) / "validation"
    out = tmp_path / "actions.txt"
    said = run(
        "suggest", videos, "--encoder", "playground", "--names", tmp_path / "names.txt", "--top", 3, "--out", out
    )
    chosen = out.read_text().split("\n")[:-1]
    assert len(chosen) == 3
    assert set(chosen) <= set(ACTIONS)
    assert "3 names cover" in said
    assert "of 20 videos" in said
    assert all(name in said for name in chosen)


def test_what_was_written_can_be_checked_and_shown(tmp_path: Path) -> None:
    (tmp_path / "actions.txt").write_text("brush_hair\n")
    out = tmp_path / "mine.json"
    with ScriptedServer(lambda request, number: completion_response(reply_json())) as server:
        run("write", tmp_path / "actions.txt", "--out", out, "--model", "m", "--base-url", server.url)
    assert "0 repeated, 0 shared by actions, 0 thin, 0 kinds missing, 0 too long" in run("check", out)
    shown = run("show", out, width=80)
    assert "brush_hair" in shown
    assert VALID_REPLY["name"] in shown
