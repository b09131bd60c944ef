"""The commands: Videos embedded once and searched often."""

from __future__ import annotations

import typer

app = typer.Typer(rich_markup_mode=None)
