"""Why this action: which descriptions fired, when, and what would have to change for the runner-up to win.

Nothing here is fitted. An embedding is the normalised mean of its frames' embeddings, and a score is its product with a
vector of text, so that each frame's part of a score is exact; that frames were left out is computed by encoding what is
left; and how far the embedding would have to turn towards a description follows from the two vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import DescriptionKind
from verbspace.data.decoding.timestamps import TimestampMismatch
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.errors import VideoError
from verbspace.data.sampling import Window, clip_duration
from verbspace.inference.predictor import Predictor
from verbspace.models.attention_rollout import attention_rollout, rollout_to_grid
from verbspace.utils.text import format_odds, format_spans

Span = tuple[float, float]  # seconds
ACTIVATION_THRESHOLD = 0.5  # a description fires where its share is at least so much of its largest


@dataclass(frozen=True)
class ActivatedDescription:
    """A description near to the video: its share of the distribution over all descriptions, the actions that it
    describes, its share in each frame (T,), and the seconds in which that is at least half of its largest.
    """

    text: str
    kind: DescriptionKind
    actions: tuple[str, ...]
    probability: float
    frame_probabilities: Tensor
    spans: list[Span]


@dataclass(frozen=True)
class Turn:
    """A description towards which, or away from which, the embedding would have to turn for the runner-up to draw
    level, and by how many degrees."""

    text: str
    towards: bool
    degrees: float


@dataclass(frozen=True)
class Counterfactual:
    """What would have to change for the runner-up to win.

    odds: how many times likelier the winner is. without: the seconds without which the runner-up wins, the video
    encoded anew from the frames that are left; None where no such frames were found. turns: the smallest first.
    """

    winner: str
    runner_up: str
    odds: float
    spans_to_drop: list[Span] | None
    turns: list[Turn]


@dataclass(frozen=True)
class Explanation:
    """A prediction taken apart.

    ranked: all actions, likeliest first. seconds (T,): when the frames show. frames: uint8 (T, 3, S, S), as the encoder
    saw them. by_frame (T, K): distributions over the actions, in the set's order, of each frame's own embedding. pull
    (T,): each frame's part of the log of `change.odds`, to which they sum. looked (T, G, G): attention rollout, what
    part of the video's embedding leads back to each patch. change: None where there is one action.
    """

    path: str
    window: Window
    action_names: list[str]
    ranking: list[tuple[str, float]]
    seconds: Tensor
    frames: Tensor
    frame_probabilities: Tensor
    log_odds_contribution: Tensor
    attention_map: Tensor
    activated_descriptions: list[ActivatedDescription]
    counterfactual: Counterfactual | None

    @property
    def spans(self) -> list[Span]:
        """The stretch of time that each frame stands for: halfway to its neighbours."""
        return frame_spans(self.seconds, self.window)


def frame_spans(seconds: Tensor, window: Window) -> list[Span]:
    """Stretches that tile the window, one around each of the ascending seconds (T,)."""
    at = seconds.tolist()
    # The frame nearest to a second may show before the window begins, or after it ends.
    middles = [min(max((a + b) / 2, window.start), window.end) for a, b in pairwise(at)]
    edges = [window.start, *middles, window.end]
    return [(edges[n], edges[n + 1]) for n in range(len(at))]


def explain(
    predictor: Predictor, path: str | Path, *, start: float = 0.0, end: float | None = None, top: int = 5
) -> Explanation:
    """Explain a predictor's answer for a video, or for the part of it from `start` to `end` seconds.

    top: how many descriptions and turns. Raises DecodeError, and ValueError for a part that the video does not have.
    """
    window, clip, times = _read_clip(predictor, path, start, end)
    encoder, space = predictor.encoder, predictor.space
    video, when = encoder.normalize(clip.to(encoder.device)), times.to(encoder.device)
    with torch.inference_mode():
        each = encoder.frame_embeddings(video[None], when[None])[0].float().cpu()
    mean = each.mean(0)
    z = F.normalize(mean, dim=-1)
    row = predictor.probabilities(z[None])[0]
    order = row.argsort(descending=True).tolist()
    names = space.action_names
    vectors = space.classifier_weights(predictor.scoring)
    sharp = space.temperature * (predictor.calibration.temperature if predictor.calibration else 1.0)
    change, pull = None, torch.zeros(len(times))
    if len(names) > 1:
        axis = vectors[order[0]] - vectors[order[1]]
        pull = each @ axis / (len(each) * mean.norm() * sharp)  # sums to z @ axis / sharp, the log of the odds
        change = Counterfactual(
            names[order[0]],
            names[order[1]],
            math.exp(min(float(pull.sum()), 700.0)),
            _find_spans_to_drop(predictor, video, when, pull, window, order[1]),
            _turns(predictor, z, axis, order, top),
        )
    return Explanation(
        str(path),
        window,
        names,
        [(names[n], float(row[n])) for n in order],
        times + window.start,
        clip,
        predictor.probabilities(F.normalize(each, dim=-1)),
        pull,
        rollout_to_grid(encoder, attention_rollout(encoder, video, when).mean(0)),
        _find_activated_descriptions(predictor, z, each, times + window.start, window, top),
        change,
    )


def _read_clip(
    predictor: Predictor, path: str | Path, start: float, end: float | None
) -> tuple[Window, Tensor, Tensor]:
    """The part asked for: its window, uint8 (T, 3, S, S), and seconds (T,) from the window's start."""
    for trust in (True, False):

        def plan(times: object) -> list[Window]:
            whole = clip_duration(times)  # type: ignore[arg-type]
            last = whole if end is None else min(end, whole)
            if not (0 <= start < last or start == last == 0):
                raise VideoError(path, f"from {start:g} to {last:g} s is no part of a video of {whole:.2f} s")
            return [Window(start, last)]

        try:
            return next(
                stream_windows(
                    path, plan, num_frames=predictor.frames, size=predictor.encoder.image_size, use_packet_times=trust
                )
            )
        except TimestampMismatch:
            continue
    raise AssertionError("a decode of the whole is never untrusted")


def _find_activated_descriptions(
    predictor: Predictor, z: Tensor, each: Tensor, seconds: Tensor, window: Window, top: int
) -> list[ActivatedDescription]:
    space, concepts = predictor.space, predictor.concepts
    if not concepts.descriptions:
        return []
    shares = space.probs(z[None], "description")[0]
    frames = space.probs(F.normalize(each, dim=-1), "description")
    spans = frame_spans(seconds, window)
    found = []
    for n in shares.topk(min(top, len(shares))).indices.tolist():
        described, by_frame = concepts.descriptions[n], frames[:, n]
        lit = (by_frame >= ACTIVATION_THRESHOLD * by_frame.max()).tolist()
        when = merge_spans([span for span, on in zip(spans, lit, strict=True) if on])
        found.append(
            ActivatedDescription(described.text, described.kind, described.actions, float(shares[n]), by_frame, when)
        )
    return found


def to_json(found: Explanation) -> dict[str, Any]:
    """An explanation as what `json.dump` takes, without the pictures."""
    change = found.counterfactual
    return {
        "path": found.path,
        "start": found.window.start,
        "end": found.window.end,
        "actions": dict(found.ranking),
        "frames": [
            {"second": second, "pull": pull, "actions": dict(zip(found.action_names, row, strict=True))}
            for second, pull, row in zip(
                found.seconds.tolist(),
                found.log_odds_contribution.tolist(),
                found.frame_probabilities.tolist(),
                strict=True,
            )
        ],
        "descriptions": [
            {"text": one.text, "kind": one.kind, "actions": one.actions, "share": one.probability, "seconds": one.spans}
            for one in found.activated_descriptions
        ],
        "change": None
        if change is None
        else {
            "winner": change.winner,
            "runner_up": change.runner_up,
            "odds": change.odds,
            "without_seconds": change.spans_to_drop,
            "turns": [asdict(turn) for turn in change.turns],
        },
    }


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """Ascending stretches, those that touch as one."""
    out: list[Span] = []
    for start, end in spans:
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out


def _find_spans_to_drop(
    predictor: Predictor, video: Tensor, times: Tensor, log_odds_contribution: Tensor, window: Window, runner_up: int
) -> list[Span] | None:
    """Frames left out, those that pull most for the winner first, until the rest, encoded anew, gives the runner-up."""
    encoder, kept = predictor.encoder, list(range(len(times)))
    spans = frame_spans(times.cpu() + window.start, window)
    for n in log_odds_contribution.argsort(descending=True).tolist()[: len(kept) - 1]:
        kept.remove(n)
        with torch.inference_mode():
            z = encoder(video[None, kept], times[None, kept]).cpu()
        if int(predictor.probabilities(z)[0].argmax()) == runner_up:
            return merge_spans([span for place, span in enumerate(spans) if place not in kept])
    return None


def _turns(predictor: Predictor, z: Tensor, axis: Tensor, order: list[int], top: int) -> list[Turn]:
    """Along a description d, z + a·d is level where (z + a·d)·axis is 0: a = -(z·axis) / (d·axis)."""
    space = predictor.space
    margin = float(z @ axis)
    found = []
    for n, (text, d) in enumerate(zip(space.description_texts, space.descriptions.cpu(), strict=True)):
        towards = bool(space.description_action_mask[n, order[1]]) and not space.description_action_mask[n, order[0]]
        away = bool(space.description_action_mask[n, order[0]]) and not space.description_action_mask[n, order[1]]
        slope = float(d @ axis)
        if not (towards and slope < 0) and not (away and slope > 0):
            continue
        level = z - margin / slope * d
        degrees = math.degrees(math.acos(max(-1.0, min(1.0, float(F.normalize(level, dim=-1) @ z)))))
        found.append(Turn(text, towards, degrees))
    found.sort(key=lambda turn: turn.degrees)
    return found[:top]


def format_counterfactual(counterfactual: Counterfactual) -> str:
    """The two likeliest actions, and whether leaving frames out turns them round, in a sentence each."""
    first = (
        f"{counterfactual.winner} is {format_odds(counterfactual.odds)} times as likely as {counterfactual.runner_up}."
    )
    if counterfactual.spans_to_drop is None:
        return f"{first} No frames were found without which {counterfactual.runner_up} would win."
    return f"{first} Without {format_spans(counterfactual.spans_to_drop)}, {counterfactual.runner_up} would win."
