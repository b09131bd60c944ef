"""Concept sets: actions, descriptions of them by kind, and who wrote those. Plain JSON files, validated as they are read."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FORMAT = "verbspace-concepts/1"
DEFAULT_TEMPLATES = ("a video of a person {}.", "a photo of a person {}.", "a person {}.")
Kind = Literal["motion", "pose", "objects", "scene"]


class ConceptSetError(ValueError):
    """A concept set that cannot be used; the message names the file, the field and the mend."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Text = Annotated[str, Field(min_length=1)]


def _clean(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; write some text or remove the entry")
    if value != value.strip():
        raise ValueError("has white space at its ends; strip it")
    return value


class Action(_Part):
    """An action: `name` is readable and goes into prompts, `label` is the data set's own class name where it differs."""

    name: Text
    label: Text | None = None

    _cleaned = field_validator("name", "label")(lambda value: value if value is None else _clean(value))

    @property
    def class_label(self) -> str:
        """The data set's name for it."""
        return self.label if self.label is not None else self.name


class Description(_Part):
    """A sentence that a camera could confirm, its kind, and the names of the actions that it describes."""

    text: Text
    kind: Kind
    actions: Annotated[tuple[str, ...], Field(min_length=1)]

    _cleaned = field_validator("text")(_clean)


class Provenance(_Part):
    """Who or what wrote the descriptions, how, when and under which licence."""

    author: Text
    method: str = ""
    prompt: str | None = None
    created: date | None = None
    source: str | None = None
    license: str | None = None


class ConceptSet(_Part):
    """Actions and their descriptions.

    templates: prompts with one `{}` each, for category vectors. directional: left and right carry meaning, so videos are
    never flipped.
    """

    format: Literal["verbspace-concepts/1"] = "verbspace-concepts/1"
    name: Text
    actions: Annotated[tuple[Action, ...], Field(min_length=1)]
    descriptions: tuple[Description, ...] = ()
    provenance: Provenance
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = DEFAULT_TEMPLATES
    directional: bool = False

    @field_validator("templates")
    @classmethod
    def _one_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or template.replace("{}", "").count("{"):
                raise ValueError(f"{template!r} must hold exactly one {{}}, the place of the action's name")
        return templates

    @model_validator(mode="after")
    def _consistent(self) -> ConceptSet:
        for field, values in (
            ("actions", [action.name for action in self.actions]),
            ("actions", [action.class_label for action in self.actions]),
            ("descriptions", [description.text for description in self.descriptions]),
        ):
            if twice := _repeated(values):
                raise ValueError(f"{field}: {twice!r} stands there twice; keep one")
        known = set(self.action_names)
        for index, description in enumerate(self.descriptions):
            if twice := _repeated(list(description.actions)):
                raise ValueError(f"descriptions.{index}.actions: {twice!r} stands there twice; keep one")
            for name in description.actions:
                if name not in known:
                    raise ValueError(f"descriptions.{index}.actions: {name!r} is not the name of an action of this set")
        return self

    @property
    def action_names(self) -> list[str]:
        """The readable names, in order."""
        return [action.name for action in self.actions]

    @property
    def labels(self) -> list[str]:
        """The data set's class names, in order."""
        return [action.class_label for action in self.actions]

    @property
    def hash(self) -> str:
        """16 hex digits that change with the content, and not with a file's key order or white space."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def ownership(self) -> torch.Tensor:
        """(M, K) bool: which description describes which action."""
        place = {name: index for index, name in enumerate(self.action_names)}
        owned = torch.zeros(len(self.descriptions), len(self.actions), dtype=torch.bool)
        for row, description in enumerate(self.descriptions):
            owned[row, [place[name] for name in description.actions]] = True
        return owned

    def subset(self, names: list[str] | tuple[str, ...]) -> ConceptSet:
        """The set with these actions only, in the order given; descriptions of none of them are left out."""
        by_name = {action.name: action for action in self.actions}
        if missing := [name for name in names if name not in by_name]:
            raise ConceptSetError(f"{self.name}: there is no action {missing[0]!r} to keep")
        kept = tuple(
            description.model_copy(update={"actions": tuple(name for name in description.actions if name in names)})
            for description in self.descriptions
            if set(description.actions) & set(names)
        )
        return self.model_copy(update={"actions": tuple(by_name[name] for name in names), "descriptions": kept})

    @classmethod
    def from_actions(cls, names: list[str] | tuple[str, ...], name: str = "actions") -> ConceptSet:
        """A set of bare action names, without descriptions."""
        return parse({"name": name, "actions": [{"name": n} for n in names], "provenance": {"author": "given by name"}}, name)

    @classmethod
    def load(cls, name_or_path: str | Path) -> ConceptSet:
        """Read a bundled set by name (`ConceptSet.bundled()` lists them) or any set by path. Raises ConceptSetError."""
        path = Path(name_or_path)
        if path.suffix != ".json" and not path.exists():
            found = resources.files("verbspace.concepts") / "sets" / f"{name_or_path}.json"
            if str(name_or_path) not in cls.bundled():
                raise ConceptSetError(
                    f"{name_or_path}: there is neither a bundled concept set nor a file of that name; bundled are {', '.join(cls.bundled())}"
                )
            return parse(json.loads(found.read_text(encoding="utf-8")), str(name_or_path))
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConceptSetError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ConceptSetError(f"{path}: is not JSON: {error}") from None
        return parse(content, str(path))

    @staticmethod
    def bundled() -> list[str]:
        """Names of the sets that come with the package."""
        folder = resources.files("verbspace.concepts") / "sets"
        return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))

    def save(self, path: str | Path) -> None:
        """Write as JSON, under a temporary name first."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)


def _repeated(values: list[str]) -> str | None:
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


def parse(content: Any, source: str) -> ConceptSet:
    """A decoded JSON value to a concept set. Raises ConceptSetError that names the source and the field."""
    try:
        return ConceptSet.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConceptSetError(f"{source}: {f'{field}: ' if field else ''}{message}") from None
