"""Explanations as a page: the frames, what fired when, and where the encoder looked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.uses.explain import Explanation
from verbspace.uses.pictures import data_uri, jpeg
from verbspace.uses.printing import change_text, clock, spans_text
from verbspace.uses.rendering import render

ROWS = 4  # actions whose course over time is shown
_SHADE = 0.25  # what is left of a picture's brightness where nothing was looked at


def explanation_page(found: Sequence[Explanation], encoder: str) -> str:
    """One self-contained HTML page. encoder: its name, as it was given."""
    sections = [section(one) for one in found]
    return render("explain.html.jinja", sections=sections, encoder=encoder)


def section(found: Explanation) -> dict[str, Any]:
    """What the template shows of one explanation."""
    spotlit = lit(found.frames, found.looked)
    strongest = max(float(found.pull.abs().max()), 1e-9)
    frames = [
        {
            "second": clock(float(second)),
            "picture": data_uri(jpeg(frame.permute(1, 2, 0).numpy())),
            "looked": data_uri(jpeg(seen)),
            "pull": float(pull),
            "height": 100 * abs(float(pull)) / strongest,
        }
        for second, frame, seen, pull in zip(found.seconds, found.frames, spotlit, found.pull, strict=True)
    ]
    courses = [
        {"name": name, "share": share, "cells": found.by_frame[:, found.names.index(name)].tolist()}
        for name, share in found.ranked[:ROWS]
    ]
    fired = [
        {
            "text": one.text,
            "kind": one.kind,
            "actions": ", ".join(one.actions),
            "share": one.share,
            "when": spans_text(one.spans),
            "cells": one.by_frame.tolist(),
        }
        for one in found.fired
    ]
    change = found.change
    return {
        "path": found.path,
        "part": f"{clock(found.window.start)} to {clock(found.window.end)}",
        "ranked": found.ranked[:5],
        "frames": frames,
        "courses": courses,
        "fired": fired,
        "change": None if change is None else change_text(change),
        "winner": None if change is None else change.winner,
        "runner_up": None if change is None else change.runner_up,
        "turns": [] if change is None else change.turns,
    }


def lit(frames: Tensor, looked: Tensor) -> list[np.ndarray]:
    """Frames (T, 3, S, S) uint8 as pictures (S, S, 3), bright where the share (T, G, G) of a patch is large.

    The brightest patch of the clip keeps its brightness, and the darkest goes down to a quarter; the shares themselves
    are often nearly even. It reads in greyscale too.
    """
    size = frames.shape[-1]
    low, high = float(looked.min()), float(looked.max())
    share = ((looked - low) / max(high - low, 1e-12)).sqrt()
    smooth = F.interpolate(share[:, None], (size, size), mode="bilinear", align_corners=False).clamp(0, 1)
    shown = frames.float() * (_SHADE + (1 - _SHADE) * smooth)
    return list(shown.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
