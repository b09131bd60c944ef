"""Action vectors fitted to a few labeled videos."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from support.playground_files import tiny_world
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.fit import fit
from verbspace.inference import few_shot
from verbspace.inference.few_shot import FittedActions, fit_action_vectors, held_out_accuracy
from verbspace.inference.predictor import Predictor
from verbspace.models.video_encoder import VideoEncoder

CONCEPTS = ConceptSet.load("playground")


def make_space(num_actions: int = 4, size: int = 16, seed: int = 0) -> ConceptSpace:
    vectors = torch.randn(num_actions, size, generator=torch.Generator().manual_seed(seed))
    names = [f"action {index}" for index in range(num_actions)]
    mask = torch.zeros(0, num_actions, dtype=torch.bool)
    empty = torch.zeros(0, size)
    return ConceptSpace(vectors, empty, mask, action_names=names, description_texts=[], temperature=0.05)


def clips_of(centers: torch.Tensor, each: int, noise: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(len(centers)).repeat_interleave(each)
    random = torch.randn(len(labels), centers.shape[1], generator=torch.Generator().manual_seed(seed))
    return F.normalize(centers[labels] + noise * random, dim=-1), labels


def test_without_texts_it_is_logistic_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all texts are the same, they decide nothing, and what remains is scikit-learn's regression without bias."""
    space = make_space()
    space.categories = space.categories[:1].expand(4, -1).clone()
    z, labels = clips_of(make_space(seed=1).categories, 10, 0.3, 0)
    variance = float((z.double() - z.double().mean(0)).square().sum(1).mean())
    monkeypatch.setattr(few_shot, "STRENGTH", 3.0 * variance)
    expected = LogisticRegression(C=3.0, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(z.numpy(), labels.numpy())
    scores = (z @ fit_action_vectors(z, labels, space).T / space.temperature).softmax(1)
    assert torch.allclose(
        scores.double(), torch.tensor(expected.predict_proba(z.numpy()), dtype=torch.float64), atol=2e-4
    )


def test_gradient_of_the_objective_is_zero() -> None:
    space = make_space()
    z, labels = clips_of(0.3 * space.categories + make_space(seed=1).categories, 6, 0.3, 0)
    vectors = fit_action_vectors(z, labels, space).double()
    x, texts = z.double(), space.categories.double()
    variance = float((x - x.mean(0)).square().sum(1).mean())

    def objective(factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = factor * (x @ texts.T / space.temperature) + x @ weight.T
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return few_shot.STRENGTH * loss + variance * weight.square().sum() / 2

    # The factor is not stored; of all splits of the vectors into texts and W, the optimum has the smallest penalty.
    factors = torch.linspace(0, 3, 3001, dtype=torch.float64)
    weights = [(vectors - factor * texts) / space.temperature for factor in factors]
    best = min(range(len(factors)), key=lambda index: float(objective(factors[index], weights[index])))
    factor, weight = factors[best].clone().requires_grad_(), weights[best].clone().requires_grad_()
    objective(factor, weight).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.abs().max() < 0.02


def test_actions_without_clips_keep_the_direction_of_their_texts() -> None:
    space = make_space(6)
    z, labels = clips_of(space.categories[:4], 5, 0.2, 0)
    vectors = fit_action_vectors(z, labels, space)
    cosines = F.cosine_similarity(vectors, space.categories, dim=-1)
    assert (cosines[4:] > 0.9).all()
    new, targets = clips_of(space.categories, 50, 0.05, 1)
    assert ((new @ vectors.T).argmax(1) == targets).float().mean() > 0.95


def test_few_clips_correct_wrong_texts() -> None:
    space = make_space()
    truth = make_space(seed=5).categories
    train, test = clips_of(truth, 3, 0.1, 0), clips_of(truth, 50, 0.1, 1)
    before = ((test[0] @ space.categories.T).argmax(1) == test[1]).float().mean()
    after = ((test[0] @ fit_action_vectors(*train, space).T).argmax(1) == test[1]).float().mean()
    assert before < 0.6
    assert after > 0.95
    assert held_out_accuracy(*train, space) > 0.9  # type: ignore[operator]
    assert held_out_accuracy(train[0][[0, 3, 6, 9]], train[1][[0, 3, 6, 9]], space) is None


def test_unusable_clips() -> None:
    space = make_space()
    with pytest.raises(ValueError, match="1 labeled clips can be read; give two or more"):
        fit_action_vectors(space.categories[:1], torch.tensor([0]), space)
    with pytest.raises(ValueError, match="all labeled clips are the same"):
        fit_action_vectors(space.categories[[0, 0]], torch.tensor([0, 0]), space)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory) / "probe"


def test_fit_predict_and_evaluate(split: Path, tmp_path: Path) -> None:
    encoder = VideoEncoder.from_pretrained("playground")
    fitted = fit(encoder, split, concepts="playground", shots=2)
    assert fitted.info.clips == [2] * 20
    assert "40 labeled videos of 20 of 20 actions (2 to 2 each)" in fitted.info.summary()
    fitted.save(tmp_path / "f.safetensors")
    loaded = FittedActions.load(tmp_path / "f.safetensors")
    assert loaded.info == fitted.info
    assert torch.equal(loaded.vectors, fitted.vectors)

    files = sorted(map(str, split.rglob("*.mp4")))[:8]
    z = encoder.encode_video(files)
    expected = (z @ fitted.vectors.T * encoder.logit_scale).softmax(1)
    predictor = Predictor(encoder, concepts="playground", fitted=tmp_path / "f.safetensors")
    assert torch.allclose(predictor.probabilities(z), expected, atol=1e-5)
    before, after = (
        evaluate(encoder, split, concepts="playground", baseline=False, fitted=given).result for given in (None, loaded)
    )
    assert after.top1 > before.top1 + 0.2  # these are the clips that it learned from
    assert after.protocol.details == {"vectors fitted on": "40 labeled clips"}
    assert after.protocol.fingerprint() != before.protocol.fingerprint()


def test_command_line(split: Path, tmp_path: Path) -> None:
    common = ["--encoder", "playground", "--concepts", "playground"]
    out = str(tmp_path / "f.safetensors")
    run = CliRunner().invoke(app, ["fit", str(split), *common, "--out", out, "--shots", "1"])
    assert run.exit_code == 0, run.output
    assert "20 labeled videos of 20 of 20 actions (1 to 1 each)" in run.stdout
    file = str(next(split.rglob("*.mp4")))
    shown = CliRunner().invoke(app, ["predict", file, *common, "--fitted", out, "--json"])
    plain = CliRunner().invoke(app, ["predict", file, *common, "--json"])
    assert json.loads(shown.stdout)["actions"] != json.loads(plain.stdout)["actions"]
    wrong = CliRunner().invoke(app, ["predict", file, *common, "--fitted", out, "--frames", "4"])
    assert str(wrong.exception).startswith("fitted: the vectors were fitted for frames 8, not for 4")
    evaluation = ["evaluate", *common, "--data", str(split), "--fitted", out]
    assert "--no-baseline" in str(CliRunner().invoke(app, evaluation).exception)
    for content, message in ((None, "there is no such file"), (b"no", "not a file of `verbspace fit`")):
        path = tmp_path / "bad"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        broken = CliRunner().invoke(app, ["predict", file, *common, "--fitted", str(path)])
        assert message in str(broken.exception)
