"""Evaluation mode for the duration of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(encoder: object) -> Iterator[None]:
    """Switch an encoder to evaluation mode if it is a module, and restore its mode on exit."""
    if not isinstance(encoder, nn.Module):
        yield
        return
    was_training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(was_training)
