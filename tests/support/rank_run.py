"""Run by torchrun: call `adapt` for each scenario of a JSON file, in one process group."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import torch.distributed as dist

from support.training_fixtures import make_concept_set, make_settings
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt
from verbspace.training.callbacks import ZeroShotValidation


class MessageList(logging.Handler):
    """Keeps the messages that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def main(file: str) -> None:
    task = json.loads(Path(file).read_text())
    dist.init_process_group("gloo")
    for scenario in task["scenarios"]:
        handler = MessageList()
        logging.getLogger("verbspace").addHandler(handler)
        logging.getLogger("verbspace").setLevel(logging.INFO)
        start = VideoEncoder.from_pretrained(task["encoder"])
        validation = [ZeroShotValidation(start, task["videos"], make_concept_set(), num_frames=4)]
        adapt(
            start, task["videos"], make_concept_set(), scenario["out"], make_settings(**scenario["training"]),
            callbacks=validation if scenario.get("validate") else [],
        )  # fmt: skip
        if dist.get_rank() == 0:
            (Path(scenario["out"]) / "notes.json").write_text(json.dumps(handler.messages))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
