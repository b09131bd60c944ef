"""Progress in logs and in terminals."""

import io
import time

import pytest
from rich.console import Console

from verbspace.cli.console.progress import LongTaskProgress, format_rate, format_values, progress


def show(console: Console) -> None:
    with progress(console) as on_progress:
        for done in range(101):
            on_progress(
                "adapt", done, 100, {"loss": 2.5 - done / 100, "category_mean_entropy": 2.25} if done % 10 == 0 else {}
            )
        on_progress("measure adapted", 0, 1, {})
        on_progress("measure adapted", 1, 1, {"top1": 0.5})


def test_logs_get_a_line_per_tenth() -> None:
    out = io.StringIO()
    show(Console(file=out, width=40))
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *(f"adapt: {10 * tenth}/100" for tenth in range(11)),
        "measure adapted: 0/1",
        "measure adapted: 1/1",
    ]
    assert lines[5].endswith("loss 2.000  entropy 2.250")
    assert "s left" in lines[5]
    assert "s left" not in lines[10]
    assert lines[-1].endswith("top-1 0.500")


@pytest.mark.parametrize("force_terminal", [False, True])
def test_time_left_of_a_resumed_stage_counts_what_was_done_since(
    force_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=force_terminal, color_system=None, get_time=lambda: now)
    with progress(console) as on_progress:
        for done in range(100, 151):  # one per two seconds
            on_progress("adapt", done, 200, {})
            now += 2
    lines = [line for line in out.getvalue().replace("\r", "\n").splitlines() if "/200" in line]
    assert "left" not in lines[0]
    assert "2.0s/it" in lines[-1]
    assert ("1:40" if force_terminal else "120 s left") in lines[-1]


def test_each_stage_fits_on_one_line_of_80_columns() -> None:
    out = io.StringIO()
    show(Console(file=out, width=80, force_terminal=True, color_system=None))
    last = [line for line in out.getvalue().replace("\r", "\n").splitlines() if "adapt" in line][-2:]
    assert "100/100" in last[0]
    assert "loss 1.500  entropy 2.250" in last[0]
    assert "top-1 0.500" in last[1]
    assert "…" not in last[0] + last[1]


def test_values_without_a_label_are_not_shown() -> None:
    assert format_values({"loss": 1.0, "category_agreement": 0.5}) == "loss 1.000"


def test_rates_below_one_per_second_are_shown_as_seconds_per_item() -> None:
    assert (format_rate(3.31), format_rate(1.0), format_rate(0.11)) == ("3.3/s", "1.0/s", "9.1s/it")


def test_only_long_tasks_are_shown_one_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    on_progress = LongTaskProgress()
    on_progress("windows", 5, 5, {})  # one step
    on_progress.close()
    assert capsys.readouterr() == ("", "")
    for done in (16, 32, 40):
        on_progress("windows", done, 40, {})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["windows: 16/40", "windows: 32/40", "windows: 40/40"]
    on_progress("windows", 16, 40, {})  # breaks off
    on_progress.close()
    on_progress("windows", 16, 40, {})
    assert capsys.readouterr().err.count("windows: 16/40") == 2
