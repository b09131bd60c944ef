"""Explanations as HTML: frames, attention, and descriptions over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.inference.explain import Explanation, format_counterfactual
from verbspace.reporting.templating import jpeg_data_uri, render_template
from verbspace.utils.text import format_ordinal, format_spans, format_timestamp

MAX_ACTION_ROWS = 4  # actions whose probability over time is shown
_MIN_BRIGHTNESS = 0.25  # brightness factor where attention is lowest


def render_explanation_page(explanations: Sequence[Explanation], encoder: str) -> str:
    """Render explanations as one self-contained HTML page, which names the encoder `encoder`."""
    sections = [section_context(explanation) for explanation in explanations]
    return render_template("explain.html.jinja", sections=sections, encoder=encoder)


def section_context(explanation: Explanation) -> dict[str, Any]:
    """Return the template variables of one explanation."""
    highlighted = highlight(explanation.frames, explanation.attention_map)
    contributions = explanation.log_odds_contribution.tolist()
    largest = max(*map(abs, contributions), 1e-9)
    frames = [
        {
            "second": format_timestamp(second),
            "image": jpeg_data_uri(frame.permute(1, 2, 0).numpy()),
            "attention": jpeg_data_uri(attention),
            "contribution": contribution,
            "height": 100 * abs(contribution) / largest,
        }
        for second, frame, attention, contribution in zip(
            explanation.seconds.tolist(), explanation.frames, highlighted, contributions, strict=True
        )
    ]
    probs_by_action = dict(zip(explanation.action_names, explanation.frame_probabilities.T.tolist(), strict=True))
    counterfactual, fits = explanation.counterfactual, explanation.description_fits
    return {
        "path": explanation.path,
        "window": f"{format_timestamp(explanation.window.start)} to {format_timestamp(explanation.window.end)}",
        "ranking": explanation.ranking[:5],
        "frames": frames,
        "action_rows": [(name, probs_by_action[name]) for name, _ in explanation.ranking[:MAX_ACTION_ROWS]],
        "descriptions": []
        if fits is None
        else [
            {
                "action": action,
                "fits": [
                    {
                        "text": fit.text,
                        "kind": fit.kind,
                        "place": f"{format_ordinal(fit.rank)} of {fits.num_descriptions}",
                        "spans": format_spans(explanation.spans_of(fit)),
                        "frame_fit": fit.frame_fit.tolist(),
                    }
                    for fit in of_action
                ],
            }
            for action, of_action in fits.by_action.items()
        ],
        "disagreement": fits and fits.disagreement(),
        "counterfactual": counterfactual,
        "summary": counterfactual and format_counterfactual(counterfactual),
    }


def highlight(frames: Tensor, attention_map: Tensor) -> list[np.ndarray]:
    """Darken frames (uint8, (T, 3, H, W)) where the attention of patches (T, rows, columns) is low: T images (H, W, 3).

    Attention is rescaled to the range from its lowest to its highest value in the clip, which often differ little.
    """
    low, high = float(attention_map.min()), float(attention_map.max())
    scaled = ((attention_map - low) / max(high - low, 1e-12)).sqrt()
    smooth = F.interpolate(scaled[:, None], frames.shape[-2:], mode="bilinear", align_corners=False).clamp(0, 1)
    darkened = frames.float() * (_MIN_BRIGHTNESS + (1 - _MIN_BRIGHTNESS) * smooth)
    return list(darkened.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
