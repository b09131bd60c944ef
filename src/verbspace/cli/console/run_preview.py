"""What `adapt` prints before the first step."""

from __future__ import annotations

from rich import filesize
from rich.table import Table

from verbspace.cli.console.recipe_table import format_duration
from verbspace.training.preview import RunPreview


def run_preview_table(preview: RunPreview) -> Table:
    """Build the table of a run's preview."""
    statistics = preview.statistics
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, space in statistics.spaces.items():
        scale = space.scale
        table.add_row(
            f"{name} space",
            f"cosines spread by {space.spread:.3f}; temperatures {scale.student_temperature:.4f} (student), "
            f"{scale.teacher_temperature:.4f} (teacher); prior × {scale.prior_weight:.2f}",
        )
        table.add_row(
            "",
            f"entropy of the teacher's distributions {space.teacher_entropy:.0%} of the maximum, of the student's "
            f"{space.student_entropy:.0%}",
        )
    table.add_row(
        "frozen encoder",
        f"{statistics.actions_in_use:.1f} actions in use on {statistics.num_videos} videos; most often "
        f"{statistics.top_action} ({statistics.top_action_share:.0%})",
    )
    pretrained, temporal = preview.learning_rates
    table.add_row("learning rates", f"{pretrained:.2g} (pretrained weights), {temporal:.2g} (temporal attention)")
    table.add_row("run", f"{preview.num_steps:,} steps, {preview.num_videos:,} videos")
    table.add_row("expected time", f"{format_duration(preview.seconds)}, if loading keeps up")
    memory = preview.memory
    table.add_row(
        "expected memory",
        f"{filesize.decimal(memory.total)}: {filesize.decimal(memory.state)} for weights and optimizer, "
        f"{filesize.decimal(memory.activations)} for activations",
    )
    return table
