"""Commands that reject an option that is given twice, of which click would use the last value only."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption


class StrictCommand(TyperCommand):
    """A command on which options stand once, unless they take a list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of a command line.

        Raises:
            ValueError: An option that takes one value is given twice.
        """
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(order).items():
            if count > 1 and isinstance(parameter, TyperOption) and not parameter.multiple:
                name = max(parameter.opts, key=len)
                raise ValueError(f"{name} is given {count} times, but takes one value; give it once")
        return super().parse_args(ctx, args)


def make_strict(app: typer.Typer) -> None:
    """Make all commands of an app strict, also those of its groups."""
    for command in app.registered_commands:
        command.cls = StrictCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            make_strict(group.typer_instance)
