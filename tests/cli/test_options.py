import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from verbspace.cli import main
from verbspace.cli.options import parse_action_list, parse_names, parse_overrides
from verbspace.cli.strict import StrictCommand
from verbspace.config.settings import LSS_LOSSES, AdaptSettings, LossSettings, TrainSettings


def test_names_are_read_as_csv() -> None:
    assert parse_names(['waving, "cutting, chopping",say "hi"', "a\nb,"], "--tasks") == [
        "waving", "cutting, chopping", 'say "hi"', "a", "b",
    ]  # fmt: skip
    assert parse_names(['"one; two"'], "--tasks") == ["one; two"]
    assert parse_names(['"a ""b"" c"'], "--tasks") == ['a "b" c']
    assert parse_names(None, "--tasks") is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a; b", r"--tasks 'a; b': separate names with commas, not with semicolons"),
        ('"x;y",a;b', "not with semicolons"),
        ('"cutting, chopping', "a quote is not closed"),
        ('"cutting" chopping', "is inside of a name"),
        (" ,\n", "--tasks has no name; give names with commas between them, or leave it out"),
    ],
)
def test_names_that_cannot_be_parsed(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_names([value], "--tasks")


def test_actions_of_files_and_repeated_options_add_up(tmp_path: Path) -> None:
    file = tmp_path / "actions.txt"
    file.write_text("waving\n# a comment\nslicing, dicing\n")
    assert parse_action_list([str(file), 'bowing,"cutting, chopping"']) == [
        "waving", "slicing, dicing", "bowing", "cutting, chopping",
    ]  # fmt: skip
    (tmp_path / "actions").write_text("running\n")
    assert parse_action_list([str(tmp_path / "actions")]) == ["running"]
    assert parse_action_list(None) is None
    with pytest.raises(ValueError, match=r"--actions names 'Waving' twice \(as 'waving'\)"):
        parse_action_list([str(file), "Waving"])
    with pytest.raises(FileNotFoundError, match=r"--actions gone.txt: there is no such file"):
        parse_action_list(["gone.txt"])
    with pytest.raises(ValueError, match=r"set.json: is a concept set; give it as --concepts"):
        parse_action_list(["set.json"])


def all_commands(command: typer.core.TyperCommand | typer.core.TyperGroup, name: str = "") -> dict[str, object]:
    if not isinstance(command, typer.core.TyperGroup):
        return {name: command}
    found: dict[str, object] = {}
    for part, one in command.commands.items():
        found |= all_commands(one, f"{name} {part}".strip())  # type: ignore[arg-type]
    return found


def test_every_command_is_strict() -> None:
    commands = all_commands(typer.main.get_command(main.app))  # type: ignore[arg-type]
    assert {"adapt", "data verify", "index build-ann", "concepts write", "show-recipe"} <= commands.keys()
    assert not [name for name, command in commands.items() if not isinstance(command, StrictCommand)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("adapt --videos A --videos B --out x", "--videos is given 2 times"),
        ("predict a.mp4 --encoder e --frames 4 --frames=4 --frames 8", "--frames is given 3 times"),
        ("evaluate --encoder e --data d --baseline --no-baseline", "--baseline is given 2 times"),
        ("index info ix --checksum --checksum", "--checksum is given 2 times"),
    ],
)
def test_an_option_given_twice_is_an_error(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["verbspace", *arguments.split()])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {message}, but takes one value; give it once")


def test_options_of_a_list_add_up(tmp_path: Path) -> None:
    """And so do arguments; only the overrides are wrong here."""
    command = ["demo", "--out", str(tmp_path), "--set", "training.steps=2", "--set", "training.stepz=2"]
    found = CliRunner().invoke(main.app, command)
    assert "training.stepz" in str(found.exception)


def test_an_action_may_be_longer_than_a_file_name() -> None:
    long = " ".join(["very"] * 100)
    assert parse_action_list([f"waving,{long}"]) == ["waving", long]


def test_method_lss_with_other_overrides() -> None:
    settings = parse_overrides(None, ["method=lss", "losses.alignment=0.1", "training.steps=7"])
    assert settings.losses == LossSettings.model_validate({**LSS_LOSSES, "alignment": 0.1})
    assert settings.training.steps == 7
    base = AdaptSettings(training=TrainSettings(batch_size=3))
    assert parse_overrides(None, ["method=lss"], base).training.batch_size == 3
