"""The live display of a training run."""

import io

from rich.console import Console

from verbspace.cli.console.live import live_display

VALUES = {
    "loss": 3.2, "loss/category": 1.25, "loss/description": 2.5, "loss/category_prior": 0.1, "loss/alignment": 0.3,
    "category_entropy": 1.1, "category_mean_entropy": 2.2, "category_agreement": 0.4, "concepts_used": 0.875,
    "gradient_norm": 1.0, "clips_per_second": 12.34, "memory_gb": 3.5, "val/top1": 0.5, "val/frozen": 0.25,
}  # fmt: skip


def test_the_live_display_shows_losses_per_space_and_the_other_metrics() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=40)
    with live_display(console) as on_progress:
        on_progress("adapt", 1, 10, VALUES)
        on_progress("adapt", 2, 10, {})
        on_progress("adapt", 3, 10, {**VALUES, "loss": 2.9})
    shown = out.getvalue()
    for text in ("3/10", "distillation", "1.250", "2.500", "entropy of the mean", "2.20", "40%", "actions used",
                 "88%", "12.3", "3.50", "50.0%", "25.0%"):  # fmt: skip
        assert text in shown, text


def test_without_a_terminal_lines_are_printed() -> None:
    out = io.StringIO()
    with live_display(Console(file=out)) as on_progress:
        for done in range(1, 11):
            on_progress("adapt", done, 10, VALUES if done % 5 == 0 else {})
    assert out.getvalue().count("adapt: ") == 10
    assert "loss 3.200" in out.getvalue()
