"""The `verbspace concepts` commands: arguments, output and errors."""

import json
import sys
from collections.abc import Callable
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
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("VERBSPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def run(*arguments: object, width: int = 200) -> str:
    result = CliRunner().invoke(main.app, ["concepts", *map(str, arguments)], env={"COLUMNS": str(width)})
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


@pytest.fixture
def run_failing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that exits with code 1 and return its standard error."""

    def run_failing(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["verbspace", "concepts", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main()
        assert caught.value.code == 1
        return capsys.readouterr().err

    return run_failing


def respond(request: dict[str, Any], number: int) -> Any:
    return completion_response(reply_about(json.loads(request["messages"][1]["content"].removeprefix("The action: "))))


def test_write_saves_a_set_and_prints_a_summary(tmp_path: Path) -> None:
    (tmp_path / "actions.txt").write_text("waving\nbowing\n")
    out = tmp_path / "mine.json"
    with ScriptedServer(respond) as server:
        arguments = ("write", tmp_path / "actions.txt", "--out", out, "--model", "m", "--base-url", server.url)
        first = run(*arguments, "--temperature", 0.1, "--max-tokens", 900)
        second = run(*arguments, "--temperature", 0.1, "--max-tokens", 900)
    assert f"{out}: 2 of 2 actions, 10 sentences (2 requests, 0 actions from the cache, 0 sentences dropped)" in first
    assert "(0 requests, 2 actions from the cache" in second
    assert ConceptSet.load(out).action_names == ["waving", "bowing"]
    assert ConceptSet.load(out).name == "mine"
    assert len(server.requests) == 2
    assert (server.requests[0]["temperature"], server.requests[0]["max_tokens"]) == (0.1, 900)
    assert (tmp_path / "cache" / "replies").is_dir()


def test_write_reports_failed_actions_and_saves_the_others(tmp_path: Path, run_failing: Callable[..., str]) -> None:
    (tmp_path / "actions.txt").write_text("waving\nbowing\n")
    out = tmp_path / "mine.json"

    def fail_bowing(request: dict[str, Any], number: int) -> Any:
        return completion_response("no") if "bowing" in str(request["messages"][1]) else respond(request, number)

    with ScriptedServer(fail_bowing) as server:
        arguments = ("write", tmp_path / "actions.txt", "--out", out, "--model", "m", "--base-url", server.url)
        error = run_failing(*arguments, "--max-attempts", 1)
    assert "1 of 2 actions failed; run the same command again to retry:\n  bowing: the reply contains no JSON" in error
    assert ConceptSet.load(out).action_names == ["waving"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pass either --model"),
        (("--model", "m", "--local-model", "folder"), "pass either --model"),
        (("--model", "m"), "OPENAI_API_KEY"),
        (
            ("--local-model", "no such folder"),
            "no such folder: no such folder, and not a hub id; write it as owner/name",
        ),
    ],
)
def test_write_requires_one_model(
    arguments: tuple[str, ...], message: str, tmp_path: Path, run_failing: Callable[..., str]
) -> None:
    (tmp_path / "actions.txt").write_text("waving\n")
    assert message in run_failing("write", tmp_path / "actions.txt", "--out", tmp_path / "mine.json", *arguments)
    assert not (tmp_path / "mine.json").exists()


def test_import_with_kinds_and_labels(tmp_path: Path, run_failing: Callable[..., str]) -> None:
    (tmp_path / "labels.txt").write_text("YoYo\nWritingOnBoard\n")
    (tmp_path / "spatial.json").write_text(json.dumps({"0": ["a string"], "1": ["a board"]}))
    (tmp_path / "temporal.json").write_text(json.dumps({"0": ["it drops"], "1": ["chalk moves"]}))
    out = tmp_path / "ost.json"
    files = (f"{tmp_path / 'spatial.json'}=scene", f"{tmp_path / 'temporal.json'}=motion")
    assert "2 actions, 4 descriptions" in run("import", *files, "--labels", tmp_path / "labels.txt", "--out", out)
    concepts = ConceptSet.load(out)
    assert concepts.labels == ["YoYo", "WritingOnBoard"]
    assert {d.text: d.kind for d in concepts.descriptions}["It drops."] == "motion"
    error = run_failing("import", f"{tmp_path / 'spatial.json'}=taste", "--out", out)
    assert "'taste' is not a kind; write FILE=KIND with one of motion, pose, objects, scene" in error


def test_show_prints_all_or_matching_entries(run_failing: Callable[..., str]) -> None:
    everything = run("show", "playground")
    concepts = ConceptSet.load("playground")
    assert all(name in everything for name in ACTIONS)
    assert all(description.text in everything for description in concepts.descriptions)
    assert f"20 actions · 158 descriptions · by {concepts.provenance.author} · hash {concepts.hash}" in everything
    matches = run("show", "playground", "Forearm swings")
    assert "A raised forearm swings from side to side." in matches
    assert "1 of 20 actions" in matches
    assert "clapping" not in matches
    by_name = run("show", "playground", "waving")
    assert by_name.count("motion") == sum(d.kind == "motion" and "waving" in d.actions for d in concepts.descriptions)
    assert "no action or description contains 'zebra'" in run_failing("show", "playground", "zebra")


def test_show_and_lint_do_not_interpret_markup(tmp_path: Path) -> None:
    text = "A [bold red]hand[/bold red] and [link=x]an arm[/link]."
    content = {
        "format": "verbspace-concepts/1", "name": "[red]x[/red]", "actions": [{"name": "[b]waving[/b]"}],
        "descriptions": [{"text": text, "kind": "pose", "actions": ["[b]waving[/b]"]}],
        "provenance": {"author": "[i]me[/i]"},
    }  # fmt: skip
    (tmp_path / "set.json").write_text(json.dumps(content))
    shown = run("show", tmp_path / "set.json")
    assert text in shown
    assert "[b]waving[/b]" in shown
    assert "[red]x[/red] · 1 actions" in shown
    assert "[b]waving[/b]: has 0 of 2 motion sentences" in run("lint", tmp_path / "set.json")


def test_lint_without_and_with_an_encoder(tmp_path: Path) -> None:
    ConceptSet.load("playground").save(tmp_path / "set.json")
    text_only = run("lint", tmp_path / "set.json")
    assert "20 actions, 158 descriptions; distinct 4-grams 0.82" in text_only
    assert "closer to another" not in text_only
    full = run("lint", tmp_path / "set.json", "--encoder", "playground", "--top", 2)
    assert "Confusable actions: none" in full
    assert "Descriptions closer to another action: 36 of 124" in full
    assert "rewrite first: standing up (5 of 7)" in full


def test_suggest_prints_and_saves_names(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (tmp_path / "names.txt").write_text("\n".join(ACTIONS))
    videos = tiny_world(tmp_path_factory) / "validation"
    out = tmp_path / "actions.txt"
    printed = run(
        "suggest", videos, "--encoder", "playground", "--names", tmp_path / "names.txt", "--top", 3, "--out", out
    )
    names = out.read_text().split("\n")[:-1]
    assert len(names) == 3
    assert set(names) <= set(ACTIONS)
    assert "3 names cover" in printed
    assert "of 20 videos" in printed
    assert all(name in printed for name in names)


def test_generated_sets_can_be_linted_and_shown(tmp_path: Path) -> None:
    (tmp_path / "actions.txt").write_text("brush_hair\n")
    out = tmp_path / "mine.json"
    with ScriptedServer(lambda request, number: completion_response(reply_json())) as server:
        run("write", tmp_path / "actions.txt", "--out", out, "--model", "m", "--base-url", server.url)
    assert "0 duplicates, 0 shared by actions, 0 uninformative, 0 kinds missing, 0 too long" in run("lint", out)
    shown = run("show", out, width=80)
    assert "brush_hair" in shown
    assert VALID_REPLY["name"] in shown
