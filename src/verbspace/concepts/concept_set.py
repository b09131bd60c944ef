"""Concept sets: actions, their descriptions by kind, and provenance, stored as validated JSON files."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from verbspace.concepts import registry
from verbspace.utils.atomic_io import write_text

FORMAT: Literal["verbspace-concepts/1"] = "verbspace-concepts/1"
DEFAULT_TEMPLATES = ("a video of a person {}.", "a photo of a person {}.", "a person {}.")
DescriptionKind = Literal["motion", "pose", "objects", "scene"]
DESCRIPTION_KINDS: tuple[DescriptionKind, ...] = get_args(DescriptionKind)


class ConceptSetError(ValueError):
    """An invalid concept set. The message names the file and the field, and says how to fix it."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _validate_text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty; write some text or remove the entry")
    if value != value.strip():
        raise ValueError(f"{value!r} has leading or trailing white space; strip it")
    return value


def _validate_template(template: str) -> str:
    if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
        raise ValueError(f"{template!r} must contain exactly one {{}}, which is replaced by the action name")
    return template


Text = Annotated[str, AfterValidator(_validate_text)]
Template = Annotated[str, AfterValidator(_validate_template)]


class Action(_FrozenModel):
    """An action.

    Attributes:
        name: Readable name, which is inserted into the prompt templates.
        label: Class label in the dataset, if it differs from the name.
    """

    name: Text
    label: Text | None = None

    @property
    def class_label(self) -> str:
        """The class label in the dataset."""
        return self.label if self.label is not None else self.name


class Description(_FrozenModel):
    """A sentence about visible content.

    Attributes:
        text: The sentence.
        kind: What the sentence describes: motion, body pose, objects or scene.
        actions: Names of the actions that it describes, one or more.
    """

    text: Text
    kind: DescriptionKind
    actions: Annotated[tuple[str, ...], Field(min_length=1)]


class Provenance(_FrozenModel):
    """Origin of the descriptions.

    Attributes:
        author: Person or model that wrote them.
        method: How they were written.
        prompt: Prompt of the language model.
        created: Date of writing.
        source: Source files or URL.
        license: License of the texts.
    """

    author: Text
    method: str = ""
    prompt: str | None = None
    created: date | None = None
    source: str | None = None
    license: str | None = None


class ConceptSet(_FrozenModel):
    """Actions and their descriptions.

    Attributes:
        format: Version of the file format.
        name: Name of the set.
        actions: Actions in the order of their class indices, K in all.
        descriptions: Descriptions of the actions, M in all; may be empty.
        provenance: Origin of the descriptions.
        templates: Prompts for category vectors, each with one `{}` for the action name.
        directional: Whether left and right distinguish actions. Videos are then never flipped horizontally.
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
        names = set(self.action_names)
        for index, description in enumerate(self.descriptions):
            field = f"descriptions.{index}.actions"
            _require_unique(field, "", description.actions)
            for position, name in enumerate(description.actions):
                if name not in names:
                    hint = _suggest(name, self.action_names) or "add the action or remove this name"
                    raise ValueError(f"{field}.{position}: {name!r} is not an action of this set; {hint}")
        return self

    @property
    def action_names(self) -> list[str]:
        """Readable action names, in order."""
        return [action.name for action in self.actions]

    @property
    def labels(self) -> list[str]:
        """Class labels of the dataset, in order."""
        return [action.class_label for action in self.actions]

    @property
    def hash(self) -> str:
        """Hash of the content, 16 hex digits. Key order and white space of a file do not affect it."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def description_action_mask(self) -> torch.Tensor:
        """Return an (M, K) bool tensor that is true where description m describes action k."""
        index_of = {name: index for index, name in enumerate(self.action_names)}
        mask = torch.zeros(len(self.descriptions), len(self.actions), dtype=torch.bool)
        for row, description in enumerate(self.descriptions):
            mask[row, [index_of[name] for name in description.actions]] = True
        return mask

    def subset(self, names: Sequence[str]) -> ConceptSet:
        """Return a set with only the named actions, in the given order, and the descriptions of those.

        Raises:
            ConceptSetError: A name is not in the set or is repeated, or `names` is empty.
        """
        action_of = {action.name: action for action in self.actions}
        if missing := [name for name in names if name not in action_of]:
            raise ConceptSetError(f"{self.name}: no action named {missing[0]!r}; `action_names` lists the actions")
        selected = set(names)
        content = self.model_dump()
        content["actions"] = [action_of[name].model_dump() for name in names]
        content["descriptions"] = [
            {**description.model_dump(), "actions": remaining}
            for description in self.descriptions
            if (remaining := [name for name in description.actions if name in selected])
        ]
        return concept_set_from_dict(content, self.name)

    @classmethod
    def from_actions(cls, names: Sequence[str], name: str = "actions") -> ConceptSet:
        """Create a set of action names without descriptions."""
        actions = [{"name": action} for action in names]
        return concept_set_from_dict(
            {"name": name, "actions": actions, "provenance": {"author": "given by name"}}, name
        )

    @classmethod
    def load(cls, name_or_path: str | Path) -> ConceptSet:
        """Load a bundled set by name (see `list_bundled`) or any set from a JSON file.

        A bundled name takes precedence over a file of the same name.

        Raises:
            ConceptSetError: There is no such set, or the file is not a valid concept set.
        """
        name, path, bundled = str(name_or_path), Path(name_or_path), cls.list_bundled()
        if name in bundled:
            return concept_set_from_dict(registry.load_bundled(name), name)
        if not path.exists():
            raise ConceptSetError(f"{path}: no such file or bundled concept set; bundled sets: {', '.join(bundled)}")
        content = load_json_strict(path)
        if isinstance(content, dict) and "format" not in content:
            raise ConceptSetError(f'{path}: format: missing; add "format": "{FORMAT}"')
        return concept_set_from_dict(content, str(path))

    @staticmethod
    def list_bundled() -> list[str]:
        """Return the names of the sets that are part of the package."""
        return registry.list_bundled()

    def save(self, path: str | Path) -> None:
        """Write the set as a JSON file, atomically. Parent folders are created."""
        write_text(path, _format_json(self.model_dump(mode="json", exclude_none=True)))


def concept_set_from_dict(content: Any, source: str) -> ConceptSet:
    """Validate decoded JSON and build a concept set.

    Args:
        content: Decoded JSON. `format` may be missing.
        source: File or name for error messages.

    Raises:
        ConceptSetError: The content is invalid.
    """
    if not isinstance(content, dict):
        raise ConceptSetError(f"{source}: expected a JSON object with the fields of a concept set")
    if content.get("format", FORMAT) != FORMAT:  # checked first, because another format has other fields
        raise ConceptSetError(f"{source}: format: {content['format']!r} is not supported; expected {FORMAT!r}")
    try:
        return ConceptSet.model_validate(content)
    except ValidationError as error:
        errors = error.errors()
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ConceptSetError(f"{source}: {_format_validation_error(errors[0])}{more}") from None


def action_entry(name: str, label: str) -> dict[str, str]:
    """Return the JSON entry of an action; `label` is left out if it equals the name."""
    return {"name": name} if name == label else {"name": name, "label": label}


def load_json_strict(path: Path) -> Any:
    """Read a JSON file and reject duplicate keys, of which `json` would silently keep only the last.

    Raises:
        ConceptSetError: The file cannot be read, is not UTF-8 or not JSON, or repeats a key.
    """

    def reject_duplicate_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in items:
            if key in content:
                raise ConceptSetError(f"{path}: {key}: duplicate key in one object; keep one")
            content[key] = value
        return content

    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=reject_duplicate_keys)
    except OSError as error:
        raise ConceptSetError(f"{path}: cannot be read ({error.strerror}); pass a JSON file") from None
    except UnicodeDecodeError as error:
        raise ConceptSetError(f"{path}: not UTF-8 text ({error}); save the file as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise ConceptSetError(f"{path}: not valid JSON ({error}); fix the file") from None


def _format_json(content: dict[str, Any]) -> str:
    """Format with one line per field, action and description, which is easy to read, edit and compare."""

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


def _require_unique(field: str, suffix: str, values: Sequence[str]) -> None:
    index_of: dict[str, int] = {}
    for index, value in enumerate(values):
        if (first := index_of.setdefault(value, index)) != index:
            raise ValueError(f"{field}.{index}{suffix}: {value!r} duplicates {field}.{first}; remove one")


def _suggest(word: str, candidates: Sequence[str]) -> str | None:
    matches = difflib.get_close_matches(word, candidates, n=1)
    return f"did you mean {matches[0]!r}?" if matches else None


def _format_validation_error(error: Mapping[str, Any]) -> str:
    """Format one pydantic error as "field: problem; fix"."""
    location, value = error["loc"], error.get("input")
    match error["type"]:
        case "value_error":
            problem = error["msg"].removeprefix("Value error, ")
        case "extra_forbidden":
            nested: dict[str, type[BaseModel]] = {
                "actions": Action,
                "descriptions": Description,
                "provenance": Provenance,
            }
            keys = list((nested[location[0]] if len(location) > 1 else ConceptSet).model_fields)
            problem = f"unknown key (known keys: {', '.join(keys)}); {_suggest(str(location[-1]), keys) or 'remove it'}"
        case "missing":
            problem = "missing; add it"
        case "too_short":
            problem = "is empty; add one or more entries"
        case "literal_error":
            problem = f"expected {error['ctx']['expected']}, got {value!r}"
        case "string_type":
            problem = f"expected a string, got {value!r}"
        case "tuple_type":
            problem = f"expected a list, got {value!r}"
        case "model_type":
            problem = f"expected an object, got {value!r}"
        case _:
            problem = f"{error['msg']}, got {value!r}"
    return ": ".join([*([".".join(map(str, location))] if location else []), problem])
