"""Explanations of predictions: descriptions, contributions of frames, and counterfactual frame removal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.data.decoding.timestamps import TimestampMismatch
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.errors import VideoError
from verbspace.data.sampling import Window
from verbspace.inference.description_fit import DescriptionFit, DescriptionFits, find_description_fits
from verbspace.inference.predictor import Predictor
from verbspace.models.attention_rollout import attention_rollout, rollout_to_grid
from verbspace.utils.text import format_odds, format_spans

Span = tuple[float, float]  # start and end, in seconds


@dataclass(frozen=True)
class Counterfactual:
    """The odds of the winner against the runner-up, and the parts of the video without which the runner-up wins.

    `spans_to_drop` is None if none were found.
    """

    winner: str
    runner_up: str
    odds: float
    spans_to_drop: list[Span] | None


@dataclass(frozen=True)
class Explanation:
    """An explained prediction.

    Attributes:
        window: The explained part of the video.
        action_names: K action names, in the order of the concept set.
        ranking: All actions with probabilities, most probable first.
        seconds: Time of each frame, shape (T,).
        frames: The encoder's input as uint8, shape (T, 3, H, W).
        frame_probabilities: Distribution over the actions for each frame's own embedding, shape (T, K).
        log_odds_contribution: Contributions of the frames, shape (T,); their sum is the log of `counterfactual.odds`.
        attention_map: Attention rollout from the video's embedding to each patch, shape (T, rows, columns).
        description_fits: Descriptions of the first two actions; None if the concept set has no descriptions.
        counterfactual: None if there is only one action.
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
    description_fits: DescriptionFits | None
    counterfactual: Counterfactual | None

    def spans_of(self, fit: DescriptionFit) -> list[Span]:
        """Return the parts of the video that a description fits best."""
        spans = frame_spans(self.seconds, self.window)
        return merge_spans([span for span, best in zip(spans, fit.is_best.tolist(), strict=True) if best])


def frame_spans(seconds: Tensor, window: Window) -> list[Span]:
    """Split a window halfway between neighboring frames at ascending times (T,): one span per frame."""
    # The first and last frame may lie slightly outside the window.
    middles = [min(max((a + b) / 2, window.start), window.end) for a, b in pairwise(seconds.tolist())]
    return list(pairwise([window.start, *middles, window.end]))


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """Merge adjacent spans in a list of ascending spans."""
    merged: list[Span] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def explain(
    predictor: Predictor, path: str | Path, *, start: float = 0.0, end: float | None = None, top: int = 3
) -> Explanation:
    """Explain a prediction for a video, or for a part of it.

    A video's embedding is the normalized mean of the shares of its frames, and a score is its inner product with a text
    vector, so each frame's contribution to a score is exact. Raises VideoError if the video has no such part, and
    ValueError if the predictor scores by phases.

    Args:
        predictor: Encoder, concepts and calibration to explain.
        path: The video file.
        start: Start of the part, in seconds.
        end: End of the part, in seconds; default: the end of the video.
        top: Number of descriptions of each of the first two actions.
    """
    if predictor.scoring == "phases":
        raise ValueError("scoring: scores by phases cannot be explained; use category, description or both")
    window, clip, times = _read_clip(predictor, path, start, end)
    seconds = times + window.start
    spans = frame_spans(seconds, window)
    encoder, space = predictor.encoder, predictor.space
    video, device_times = encoder.normalize(clip.to(encoder.device)), times.to(encoder.device)
    with torch.inference_mode():
        frames = encoder.frame_embeddings(video[None], device_times[None]).float()
        shares = encoder.frame_shares(frames, device_times[None])[0].cpu()
    unit_frames = F.normalize(frames[0].cpu(), dim=-1)
    mean = shares.mean(0)
    z = F.normalize(mean, dim=-1)
    probabilities = predictor.probabilities(z[None])[0]
    order = probabilities.argsort(descending=True).tolist()
    names = space.action_names
    counterfactual, contribution = None, torch.zeros(len(times))
    if len(names) > 1:
        weights = space.classifier_weights(predictor.scoring)
        axis = weights[order[0]] - weights[order[1]]
        temperature = space.temperature * (predictor.calibration.temperature if predictor.calibration else 1.0)
        # The sum over frames is z @ axis / temperature, the log of the odds.
        contribution = shares @ axis / (len(shares) * mean.norm() * temperature)
        counterfactual = Counterfactual(
            names[order[0]],
            names[order[1]],
            math.exp(min(float(contribution.sum()), 700.0)),
            _find_spans_to_drop(predictor, video, device_times, contribution, spans, order[1]),
        )
    return Explanation(
        path=str(path),
        window=window,
        action_names=names,
        ranking=[(names[n], float(probabilities[n])) for n in order],
        seconds=seconds,
        frames=clip,
        frame_probabilities=predictor.probabilities(unit_frames),
        log_odds_contribution=contribution,
        attention_map=rollout_to_grid(encoder, attention_rollout(encoder, video, device_times).mean(0), video),
        description_fits=find_description_fits(
            space,
            predictor.concepts,
            predictor.scoring,
            z,
            unit_frames,
            [names[n] for n in order[:2]],
            top,
            predictor.is_fitted,
        ),
        counterfactual=counterfactual,
    )


def format_counterfactual(counterfactual: Counterfactual) -> str:
    """Describe a counterfactual in two sentences."""
    winner, runner_up, spans = counterfactual.winner, counterfactual.runner_up, counterfactual.spans_to_drop
    odds = f"{winner} is {format_odds(counterfactual.odds)} times as likely as {runner_up}."
    if spans is None:
        return f"{odds} No frames were found without which {runner_up} would win."
    return f"{odds} Without {format_spans(spans)}, {runner_up} would win."


def to_json(explanation: Explanation) -> dict[str, Any]:
    """Convert an explanation to JSON types, without the images."""
    counterfactual, fits = explanation.counterfactual, explanation.description_fits
    return {
        "path": explanation.path,
        "start": explanation.window.start,
        "end": explanation.window.end,
        "actions": dict(explanation.ranking),
        "frames": [
            {"second": second, "pull": pull, "actions": dict(zip(explanation.action_names, row, strict=True))}
            for second, pull, row in zip(
                explanation.seconds.tolist(),
                explanation.log_odds_contribution.tolist(),
                explanation.frame_probabilities.tolist(),
                strict=True,
            )
        ],
        "descriptions": None
        if fits is None
        else {
            action: [
                {
                    "text": fit.text,
                    "kind": fit.kind,
                    "rank": fit.rank,
                    "of": fits.num_descriptions,
                    "seconds": explanation.spans_of(fit),
                }
                for fit in of_action
            ]
            for action, of_action in fits.by_action.items()
        },
        "disagreement": None if fits is None else fits.disagreement(),
        "change": None
        if counterfactual is None
        else {
            "winner": counterfactual.winner,
            "runner_up": counterfactual.runner_up,
            "odds": counterfactual.odds,
            "without_seconds": counterfactual.spans_to_drop,
        },
    }


def _read_clip(
    predictor: Predictor, path: str | Path, start: float, end: float | None
) -> tuple[Window, Tensor, Tensor]:
    """Read a part of a video: its window, uint8 frames (T, 3, H, W), and times (T,) relative to the window's start."""

    def plan(duration: float) -> list[Window]:
        last = duration if end is None else min(end, duration)
        if not (0 <= start < last or start == last == 0):
            raise VideoError(path, f"{start:g} to {last:g} s is not a part of this video of {duration:.2f} s")
        return [Window(start, last)]

    frames, preprocessing = predictor.frames, predictor.encoder.preprocessing
    try:
        return next(stream_windows(path, plan, num_frames=frames, preprocessing=preprocessing))
    except TimestampMismatch:
        return next(stream_windows(path, plan, num_frames=frames, preprocessing=preprocessing, use_packet_times=False))


def _find_spans_to_drop(
    predictor: Predictor, video: Tensor, times: Tensor, contribution: Tensor, spans: list[Span], runner_up: int
) -> list[Span] | None:
    """Drop frames by descending contribution to the winner until the runner-up wins.

    The remaining frames are encoded again after each drop, because temporal attention mixes frames.
    """
    encoder, remaining = predictor.encoder, list(range(len(times)))
    for n in contribution.argsort(descending=True).tolist()[: len(remaining) - 1]:
        remaining.remove(n)
        with torch.inference_mode():
            z = encoder(video[None, remaining], times[None, remaining]).cpu()
        if int(predictor.probabilities(z)[0].argmax()) == runner_up:
            return merge_spans([span for index, span in enumerate(spans) if index not in remaining])
    return None
