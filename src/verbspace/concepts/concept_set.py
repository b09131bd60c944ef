"""Concept sets: actions, descriptions of them by kind, and who wrote those.

Plain JSON files, validated as they are read.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)

from verbspace.utils.atomic_io import write_text

FORMAT: Literal["verbspace-concepts/1"] = "verbspace-concepts/1"
DEFAULT_TEMPLATES = ("a video of a person {}.", "a photo of a person {}.", "a person {}.")
DescriptionKind = Literal["motion", "pose", "objects", "scene"]


class ConceptSetError(ValueError):
    """A concept set that cannot be used; the message names the file, the field and the mend."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _validate_text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; write some text or remove the entry")
    if value != value.strip():
        raise ValueError(f"{value!r} has white space at its ends; strip it")
    return value


def _validate_template(template: str) -> str:
    if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
        raise ValueError(f"{template!r} must hold exactly one {{}}, the place of the action's name; mend it")
    return template


Text = Annotated[str, AfterValidator(_validate_text)]
Template = Annotated[str, AfterValidator(_validate_template)]


class Action(_FrozenModel):
    """An action: `name` is readable and goes into prompts, `label` is the data set's own class name where it
    differs.
    """

    name: Text
    label: Text | None = None

    @property
    def class_label(self) -> str:
        """The data set's name for it."""
        return self.label if self.label is not None else self.name


class Description(_FrozenModel):
    """A sentence that a camera could confirm, its kind, and the names of the actions that it describes."""

    text: Text
    kind: DescriptionKind
    actions: Annotated[tuple[str, ...], Field(min_length=1)]


class Provenance(_FrozenModel):
    """Who or what wrote the descriptions, how, when and under which licence."""

    author: Text
    method: str = ""
    prompt: str | None = None
    created: date | None = None
    source: str | None = None
    license: str | None = None


class ConceptSet(_FrozenModel):
    """Actions and their descriptions.

    templates: prompts with one `{}` each, for category vectors. directional: left and right carry meaning, so
    videos are never flipped.
    """

    format: Literal["verbspace-concepts/1"] = FORMAT
    name: Text
    actions: Annotated[tuple[Action, ...], Field(min_length=1)]
    descriptions: tuple[Description, ...] = ()
    provenance: Provenance
    templates: Annotated[tuple[Template, ...], Field(min_length=1)] = DEFAULT_TEMPLATES
    directional: StrictBool = False

    @model_validator(mode="after")
    def _validate_consistency(self) -> ConceptSet:
        _require_unique("actions", ".name", self.action_names)
        _require_unique("actions", ".label", self.labels)
        _require_unique("descriptions", ".text", [description.text for description in self.descriptions])
        known = set(self.action_names)
        for index, description in enumerate(self.descriptions):
            field = f"descriptions.{index}.actions"
            _require_unique(field, "", description.actions)
            for place, name in enumerate(description.actions):
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f"; did you mean {close[0]!r}?" if close else "; add the action or leave the name out"
                    raise ValueError(f"{field}.{place}: {name!r} is not the name of an action of this set{hint}")
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

    def description_action_mask(self) -> torch.Tensor:
        """(M, K) bool: which description describes which action."""
        place = {name: index for index, name in enumerate(self.action_names)}
        owned = torch.zeros(len(self.descriptions), len(self.actions), dtype=torch.bool)
        for row, description in enumerate(self.descriptions):
            owned[row, [place[name] for name in description.actions]] = True
        return owned

    def subset(self, names: Sequence[str]) -> ConceptSet:
        """The set with these actions only, in the order given; descriptions of none of them are left out.

        Raises ConceptSetError where a name is not an action's, or is given twice.
        """
        by_name = {action.name: action for action in self.actions}
        if missing := [name for name in names if name not in by_name]:
            raise ConceptSetError(f"{self.name}: there is no action {missing[0]!r} to keep; see `action_names`")
        wanted = set(names)
        kept = [
            {**description.model_dump(), "actions": [name for name in description.actions if name in wanted]}
            for description in self.descriptions
            if wanted & set(description.actions)
        ]
        actions = [by_name[name].model_dump() for name in names]
        return concept_set_from_dict({**self.model_dump(), "actions": actions, "descriptions": kept}, self.name)

    @classmethod
    def from_actions(cls, names: Sequence[str], name: str = "actions") -> ConceptSet:
        """A set of bare action names, without descriptions."""
        actions = [{"name": action} for action in names]
        return concept_set_from_dict(
            {"name": name, "actions": actions, "provenance": {"author": "given by name"}}, name
        )

    @classmethod
    def load(cls, name_or_path: str | Path) -> ConceptSet:
        """Read a bundled set by name (`ConceptSet.bundled()` lists them) or any set by path.

        A bundled name comes before a file of that name. Raises ConceptSetError.
        """
        path, bundled = Path(name_or_path), cls.list_bundled()
        if str(name_or_path) in bundled:
            from verbspace.concepts.registry import COMPOSED_SETS, load_composed

            if str(name_or_path) in COMPOSED_SETS:
                return load_composed(str(name_or_path))
            text = (_bundled_sets_dir() / f"{name_or_path}.json").read_text(encoding="utf-8")
        elif path.exists():
            text = read_text(path)
        else:
            raise ConceptSetError(
                f"{path}: there is neither a file nor a bundled concept set of that name; "
                f"bundled are {', '.join(bundled)}"
            )
        content = load_json_strict(text, str(path))
        if isinstance(content, dict) and "format" not in content:
            raise ConceptSetError(f'{path}: format: is missing; add "format": "{FORMAT}"')
        return concept_set_from_dict(content, str(path))

    @staticmethod
    def list_bundled() -> list[str]:
        """Names of the sets that come with the package."""
        from verbspace.concepts.registry import COMPOSED_SETS

        names = [entry.name for entry in _bundled_sets_dir().iterdir()]
        return sorted([*COMPOSED_SETS, *(name.removesuffix(".json") for name in names if name.endswith(".json"))])

    def save(self, path: str | Path) -> None:
        """Write as JSON, under a temporary name first; folders on the way are made."""
        write_text(path, _format_json(self.model_dump(mode="json", exclude_none=True)))


def concept_set_from_dict(content: Any, source: str) -> ConceptSet:
    """A decoded JSON value to a concept set. Raises ConceptSetError that names the source and the field."""
    if not isinstance(content, dict):
        raise ConceptSetError(f"{source}: holds no JSON object; write {{...}} with the set's fields")
    if content.get("format", FORMAT) != FORMAT:  # before all else: another format has other fields
        raise ConceptSetError(
            f"{source}: format: {content['format']!r} cannot be read here; this version reads {FORMAT!r}"
        )
    try:
        return ConceptSet.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        more = f" (and {len(found) - 1} more to mend)" if len(found) > 1 else ""
        raise ConceptSetError(f"{source}: {_format_validation_error(found[0])}{more}") from None


def _format_json(content: dict[str, Any]) -> str:
    """JSON with a line for each field, and for each action and description: good to read, to edit and to compare."""

    def to_json(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    fields = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            entries = ",\n".join(f"  {to_json(entry)}" for entry in value)
            fields.append(f" {to_json(key)}: [\n{entries}\n ]")
        else:
            fields.append(f" {to_json(key)}: {to_json(value)}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _bundled_sets_dir() -> Any:
    return resources.files("verbspace.concepts") / "sets"


def _require_unique(field: str, suffix: str, values: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if (other := first.setdefault(value, index)) != index:
            raise ValueError(f"{field}.{index}{suffix}: {value!r} is that of {field}.{other} too; keep one")


def load_json_strict(text: str, source: str) -> Any:
    """A file's JSON. A key that stands twice would lose its first value in silence, so it is refused."""

    def reject_duplicate_keys(key_values: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(key_values)
        if len(content) != len(key_values):
            keys = [key for key, _ in key_values]
            twice = next(key for key in content if keys.count(key) > 1)
            raise ConceptSetError(f"{source}: {twice}: stands twice in one object; keep one")
        return content

    try:
        return json.loads(text, object_pairs_hook=reject_duplicate_keys)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConceptSetError(f"{source}: is not JSON ({error}); mend it there") from None


def read_text(path: Path) -> str:
    """A file's text. Raises ConceptSetError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConceptSetError(f"{path}: cannot be read ({error.strerror}); give a JSON file") from None
    except UnicodeDecodeError as error:
        raise ConceptSetError(f"{path}: is not JSON in UTF-8 ({error}); save it as UTF-8") from None


def _format_validation_error(error: Any) -> str:
    """One of pydantic's errors as field, fault and mend."""
    place, value = error["loc"], error.get("input")
    field = ".".join(map(str, place))
    match error["type"]:
        case "value_error":
            fault = error["msg"].removeprefix("Value error, ")
        case "extra_forbidden":
            inner: dict[str, type[_FrozenModel]] = {
                "actions": Action,
                "descriptions": Description,
                "provenance": Provenance,
            }
            known = list((inner[place[0]] if len(place) > 1 else ConceptSet).model_fields)
            close = difflib.get_close_matches(str(place[-1]), known, n=1)
            mend = f"did you mean {close[0]!r}?" if close else "remove it"
            fault = f"is not a known key ({', '.join(known)}); {mend}"
        case "missing":
            fault = "is missing; add it"
        case "literal_error":
            fault = f"is {value!r}; write {error['ctx']['expected']}"
        case "too_short":
            fault = "is empty; list one or more"
        case "string_type":
            fault = f"{value!r} is not text; write a string"
        case "tuple_type":
            fault = f"{value!r} is not a list; write [...]"
        case "model_type":
            fault = f"{value!r} is not an object; write {{...}}"
        case _:
            fault = f"{error['msg']}, got {value!r}; mend it"
    return f"{field}: {fault}" if field else fault
