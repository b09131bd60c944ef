"""Explanations as a page: the frames, what fired when, and where the encoder looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.inference.explain import Explanation, format_counterfactual
from verbspace.reporting.images import data_uri, encode_jpeg
from verbspace.reporting.templating import render_template
from verbspace.utils.text import format_spans, format_timestamp

MAX_ACTION_ROWS = 4  # actions whose course over time is shown
_MIN_BRIGHTNESS = 0.25  # what is left of a picture's brightness where nothing was looked at


def render_explanation_page(found: Sequence[Explanation], encoder: str) -> str:
    """One self-contained HTML page. encoder: its name, as it was given."""
    sections = [section_context(one) for one in found]
    return render_template("explain.html.jinja", sections=sections, encoder=encoder)


def section_context(found: Explanation) -> dict[str, Any]:
    """What the template shows of one explanation."""
    spotlit = highlight(found.frames, found.attention_map)
    strongest = max(float(found.log_odds_contribution.abs().max()), 1e-9)
    frames = [
        {
            "second": format_timestamp(float(second)),
            "picture": data_uri(encode_jpeg(frame.permute(1, 2, 0).numpy())),
            "looked": data_uri(encode_jpeg(seen)),
            "pull": float(pull),
            "height": 100 * abs(float(pull)) / strongest,
        }
        for second, frame, seen, pull in zip(
            found.seconds, found.frames, spotlit, found.log_odds_contribution, strict=True
        )
    ]
    courses = [
        {"name": name, "share": share, "cells": found.frame_probabilities[:, found.action_names.index(name)].tolist()}
        for name, share in found.ranking[:MAX_ACTION_ROWS]
    ]
    fired = [
        {
            "text": one.text,
            "kind": one.kind,
            "actions": ", ".join(one.actions),
            "share": one.probability,
            "when": format_spans(one.spans),
            "cells": one.frame_probabilities.tolist(),
        }
        for one in found.activated_descriptions
    ]
    change = found.counterfactual
    return {
        "path": found.path,
        "part": f"{format_timestamp(found.window.start)} to {format_timestamp(found.window.end)}",
        "ranked": found.ranking[:5],
        "frames": frames,
        "courses": courses,
        "fired": fired,
        "change": None if change is None else format_counterfactual(change),
        "winner": None if change is None else change.winner,
        "runner_up": None if change is None else change.runner_up,
    }


def highlight(frames: Tensor, attention_map: Tensor) -> list[np.ndarray]:
    """Frames (T, 3, S, S) uint8 as pictures (S, S, 3), bright where the share (T, G, G) of a patch is large.

    The brightest patch of the clip keeps its brightness, and the darkest goes down to a quarter; the shares themselves
    are often nearly even. It reads in greyscale too.
    """
    size = frames.shape[-1]
    low, high = float(attention_map.min()), float(attention_map.max())
    share = ((attention_map - low) / max(high - low, 1e-12)).sqrt()
    smooth = F.interpolate(share[:, None], (size, size), mode="bilinear", align_corners=False).clamp(0, 1)
    shown = frames.float() * (_MIN_BRIGHTNESS + (1 - _MIN_BRIGHTNESS) * smooth)
    return list(shown.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
