"""The HTML page of explanations."""

import pytest
import torch

from support.playground_files import tiny_world
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.explain import explain
from verbspace.inference.predictor import Predictor
from verbspace.reporting.explanations import highlight, render_explanation_page


def test_attended_patches_are_bright() -> None:
    attention = torch.zeros(2, 4, 4)
    attention[1, 0, 0] = 1.0
    dark, bright = highlight(torch.full((2, 3, 32, 32), 200, dtype=torch.uint8), attention)
    assert (dark == 50).all()
    assert bright[0, 0, 0] == 200
    assert bright[-1, -1, 0] == 50


def test_page_is_self_contained_and_escaped(tmp_path_factory: pytest.TempPathFactory) -> None:
    hostile = "<script>alert(1)</script>"
    video = read_manifest(tiny_world(tmp_path_factory) / "test")[0].path
    found = explain(Predictor("playground", [f"waving {hostile}", "bowing"]), video)
    page = render_explanation_page([found], hostile)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 2
    assert page.count("data:image/jpeg") == 16
    assert 'src="http' not in page
    assert page.count("alt=") == 16
