"""Run by torchrun: `adapt` for each of the scenarios in a JSON file, one after another in one team of processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from support.training_fixtures import make_concept_set, make_settings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt
from verbspace.training.callbacks import zero_shot_validation


def main(file: str) -> None:
    task = json.loads(Path(file).read_text())
    dist.init_process_group("gloo")
    for scenario in task["scenarios"]:
        notes: list[str] = []
        start = VideoEncoder.from_pretrained(task["encoder"])
        check = zero_shot_validation(task["videos"], make_concept_set()) if scenario.get("check") else None
        adapt(
            start, task["videos"], make_concept_set(), scenario["out"], make_settings(**scenario["training"]),
            validation_factory=check, on_note=notes.append, max_steps_this_call=scenario.get("stop_after"),
        )  # fmt: skip
        if dist.get_rank() == 0:
            (Path(scenario["out"]) / "notes.json").write_text(json.dumps(notes))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
