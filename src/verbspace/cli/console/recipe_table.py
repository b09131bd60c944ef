"""A recipe as a table, with its estimated cost."""

from __future__ import annotations

from rich.table import Column, Table
from rich.text import Text

from verbspace.config.recipes import Recipe
from verbspace.training.flops import (
    ASSUMED_UTILIZATION,
    CPU_UTILIZATION,
    DEVICE_PEAK_FLOPS,
    clip_config,
    measure_matmul_flops,
    training_flops,
)
from verbspace.utils.device import device_name, resolve_device, resolve_precision


def recipe_table(recipe: Recipe) -> Table:
    """Build the table that `verbspace show-recipe` prints."""
    training = recipe.settings.training
    num_steps = training.num_steps(recipe.num_videos)
    flops = training_flops(clip_config(recipe.shape), recipe.settings)
    columns = Column(style="bold"), Column(overflow="fold")
    table = Table(*columns, show_header=False, title=recipe.title, title_justify="left")
    table.add_row("encoder", recipe.encoder)
    table.add_row("concepts", recipe.concepts)
    table.add_row("data", Text(f"{recipe.data} ({recipe.videos}, about {recipe.num_videos:,} videos)"))
    table.add_row("hardware", recipe.hardware)
    table.add_row("steps", f"{num_steps:,} of {training.batch_size} clips, {training.trainable}")
    table.add_row("training step, per clip", f"{flops / 1e12:.2f} TFLOP")
    total = num_steps * training.batch_size * flops
    device = resolve_device()
    precision = resolve_precision(training.dtype, device)
    rate, fraction = measure_matmul_flops(device, precision), ASSUMED_UTILIZATION
    if device.type == "cpu":
        fraction = CPU_UTILIZATION
    estimate = f"estimate: {fraction:.0%} of {rate / 1e12:.2g} TFLOP/s, measured now in {precision}"
    table.add_row(
        "on this machine", f"{format_duration(total / (fraction * rate))} ({device_name(device)}; {estimate})"
    )
    for name, peak in DEVICE_PEAK_FLOPS.items():
        duration = format_duration(total / (ASSUMED_UTILIZATION * peak))
        estimate = f"estimate: {ASSUMED_UTILIZATION:.0%} of the stated peak, if loading keeps up"
        table.add_row(f"on {name}", f"{duration} ({estimate})")
    for choice in recipe.choices:
        table.add_row("our choice", choice)
    return table


def format_duration(seconds: float) -> str:
    """Format a duration in minutes, hours or days."""
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min" if seconds >= 60 else "under a minute"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
