"""The commands: What leaves the house: exported encoders, model cards, reports, the app."""

from __future__ import annotations

import typer

app = typer.Typer(rich_markup_mode=None)
