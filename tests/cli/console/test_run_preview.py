"""The table that `adapt` prints before the first step."""

import io

from rich.console import Console

from verbspace.cli.console.run_preview import run_preview_table
from verbspace.training.loss_scales import LossScale
from verbspace.training.memory import TrainingMemory
from verbspace.training.preview import FrozenStatistics, RunPreview, SpacePreview


def test_the_table_names_what_the_run_uses() -> None:
    scale = LossScale(student_temperature=0.02, teacher_temperature=0.008, prior_weight=2.06)
    space = SpacePreview(spread=0.024, scale=scale, teacher_entropy=0.4, student_entropy=0.8)
    statistics = FrozenStatistics(
        num_videos=64, spaces={"category": space}, actions_in_use=31.4, top_action="running", top_action_share=0.125,
        embedding_variance=0.4,
    )  # fmt: skip
    preview = RunPreview(
        statistics, (1e-5, 4.5e-5), 240_000, 18_750, 7.9 * 3600, TrainingMemory(2_400_000_000, 61_000_000_000)
    )
    out = io.StringIO()
    Console(file=out, width=120).print(run_preview_table(preview))
    shown = (
        "spread by 0.024", "0.0200 (student)", "0.0080 (teacher)", "2.06", "40%", "31.4 actions", "12%", "1e-05",
        "4.5e-05", "18,750 steps, 240,000 videos", "7.9 h", "63.4 GB", "2.4 GB", "61.0 GB",
    )  # fmt: skip
    for text in shown:
        assert text in out.getvalue(), text
