import statistics
from pathlib import Path

import pytest
import torch

from support.playground_files import TINY_SETTINGS, TINY_TRAINING
from support.training_fixtures import deterministic_metrics
from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import LossSettings
from verbspace.data.dataloader import load_views
from verbspace.models.hashing import encoder_hash
from verbspace.playground.actions import TRAIN_ACTIONS
from verbspace.playground.baselines import load_playground_encoder
from verbspace.playground.demo import PLAYGROUND_SETTINGS
from verbspace.playground.supervised_upper_bound import (
    SupervisedMethod,
    read_labeled_train_records,
    train_supervised_upper_bound,
)
from verbspace.training.adapt import build_dataset, build_distiller


def test_labeled_train_records_match_the_train_split(world: Path) -> None:
    records = read_labeled_train_records(world)
    assert [record.path for record in records] == sorted((world / "train").glob("*.mp4"))
    assert {record.label for record in records} == set(TRAIN_ACTIONS)  # sixteen clips, one of each


@pytest.mark.parametrize("local_views", [3, 0])
def test_supervised_loss_is_the_mean_cross_entropy_over_views(local_views: int, world: Path) -> None:
    settings = TINY_SETTINGS.model_copy(
        update={
            "views": PLAYGROUND_SETTINGS.views.model_copy(update={"local_views": local_views}),
            "losses": LossSettings(student_temperature=0.1, teacher_temperature=0.04),
        }
    )
    concepts, records = ConceptSet.load("playground").subset(TRAIN_ACTIONS), read_labeled_train_records(world)
    start = load_playground_encoder()
    distiller = build_distiller(start, start.build_concept_space(concepts), settings, torch.device("cpu"))
    labels = torch.tensor([TRAIN_ACTIONS.index(str(record.label)) for record in records])
    views = next(iter(load_views(build_dataset(records, distiller.student, concepts, settings), batch_size=3)))
    outcome = SupervisedMethod(distiller, labels)(views, distiller.init_state())
    student, losses = distiller.student, []
    space = ConceptSpace.build(concepts, student.encode_text)
    with torch.no_grad():
        for kind in ("global", "local"):
            for clip, index in enumerate(views["index"].tolist()):
                for view in range(views[kind].shape[1] if kind in views else 0):
                    frames = student.normalize(views[kind][clip, view])[None]
                    z = student(frames, views[f"{kind}_times"][clip, view][None])[0]
                    rates = (space.categories @ z / 0.1).log_softmax(-1)
                    losses.append(-rates[labels[index]])
    assert len(losses) == 3 * (2 + local_views)
    torch.testing.assert_close(outcome.total.detach(), torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)
    outcome.total.backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())


def test_supervised_training_reduces_the_loss(world: Path, tmp_path: Path) -> None:
    training = TINY_TRAINING.model_copy(update={"steps": 16, "batch_size": 8, "save_interval": 100})
    views = PLAYGROUND_SETTINGS.views.model_copy(update={"local_views": 0})
    settings = PLAYGROUND_SETTINGS.model_copy(update={"training": training, "views": views})
    start, concepts = load_playground_encoder(), ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    before = encoder_hash(start)
    taught = train_supervised_upper_bound(start, world, concepts, tmp_path, settings)
    assert encoder_hash(start) == before
    assert encoder_hash(taught) != before
    losses = [row["loss/supervised"] for row in deterministic_metrics(tmp_path)]
    assert statistics.fmean(losses[-4:]) < 0.7 * statistics.fmean(losses[:4])
