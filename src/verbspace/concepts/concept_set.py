"""Concept sets: actions, their descriptions by kind, and provenance, stored as validated JSON files."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from verbspace.concepts import registry
from verbspace.concepts.labels import label_to_phrase, mirrored_pairs, read_label_names
from verbspace.utils.atomic_io import write_text

FORMAT: Literal["verbspace-concepts/2"] = "verbspace-concepts/2"
FORMAT_WITHOUT_PHASES = "verbspace-concepts/1"  # is still read
DEFAULT_TEMPLATES = ("a video of a person {}.", "a photo of a person {}.", "a person {}.")
DescriptionKind = Literal["motion", "pose", "objects", "scene"]
DESCRIPTION_KINDS: tuple[DescriptionKind, ...] = get_args(DescriptionKind)
Phase = Literal["start", "middle", "end"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class ConceptSetError(ValueError):
    """An invalid concept set. The message names the file and the field, and says how to fix it."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _validate_template(template: str) -> str:
    if template.count("{}") != 1 or set("{}") & set(template.replace("{}", "")):
        raise ValueError(f"{template!r} must contain exactly one {{}}, which is replaced by the action name")
    return template


Text = Annotated[str, Field(min_length=1)]
Template = Annotated[str, AfterValidator(_validate_template)]


class Action(_FrozenModel):
    """An action: its readable name for prompts, and its class label in the dataset, if that differs from the name."""

    name: Text
    label: Text | None = None

    @property
    def class_label(self) -> str:
        """The class label in the dataset."""
        return self.label if self.label is not None else self.name


class Description(_FrozenModel):
    """A sentence about visible content, and the names of the actions that it describes.

    With a `phase`, it says what a frame of that third of the action shows. Without one, it holds for the whole action.
    """

    text: Text
    kind: DescriptionKind
    phase: Phase | None = None
    actions: Annotated[tuple[str, ...], Field(min_length=1)]


class Provenance(_FrozenModel):
    """Origin of the descriptions: their author (a person or a model), and the prompt of a language model."""

    author: Text
    method: str = ""
    prompt: str | None = None
    created: date | None = None
    source: str | None = None
    license: str | None = None


class ConceptSet(_FrozenModel):
    """Actions and their descriptions.

    Attributes:
        actions: K actions in the order of their class indices.
        descriptions: The descriptions; may be empty. A text may be there once without a phase and once in each phase.
        templates: Prompts for category vectors, each with one `{}` for the action name.
        directional: Whether left and right distinguish actions. Videos are then never flipped horizontally. If it is
            not given, it is true if two actions differ only by left and right (see `labels.mirrored_pairs`).
    """

    format: Literal["verbspace-concepts/2"] = FORMAT
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
        for phase in (None, *PHASES):
            texts = {n: each.text for n, each in enumerate(self.descriptions) if each.phase == phase}
            _require_unique("descriptions", ".text", list(texts.values()), list(texts))
        names = set(self.action_names)
        for index, description in enumerate(self.descriptions):
            field = f"descriptions.{index}.actions"
            _require_unique(field, "", description.actions)
            for position, name in enumerate(description.actions):
                if name not in names:
                    close = difflib.get_close_matches(name, self.action_names, n=1)
                    hint = f"did you mean {close[0]!r}?" if close else "add the action or remove this name"
                    raise ValueError(f"{field}.{position}: {name!r} is not an action of this set; {hint}")
        return self

    @model_validator(mode="after")
    def _derive_directional(self) -> ConceptSet:
        if "directional" not in self.model_fields_set and mirrored_pairs(self.action_names):
            object.__setattr__(self, "directional", True)  # the model is frozen
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
        """Hash of the content, 16 hex digits. Key order and white space of a file, and its format, do not affect it."""
        content = {**self.model_dump(mode="json"), "format": FORMAT_WITHOUT_PHASES}
        for description in content["descriptions"]:
            if description["phase"] is None:  # as in the format without phases, so that hashes of such sets stay
                del description["phase"]
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    def descriptions_of_phase(self, phase: Phase | None) -> list[Description]:
        """Return the descriptions of one phase, or those that hold for the whole action."""
        return [description for description in self.descriptions if description.phase == phase]

    def subset(self, names: Sequence[str]) -> ConceptSet:
        """Return a set with only the named actions, in the given order, and the descriptions of those.

        Its name says so, as in "playground (16 of 20 actions)", unless it has all actions.
        """
        known = set(self.action_names)
        if missing := [name for name in names if name not in known]:
            raise ConceptSetError(f"{self.name}: no action named {missing[0]!r}; `action_names` lists the actions")
        content = registry.select_actions(self.model_dump(), names)
        if len(names) < len(self.actions):
            content["name"] = f"{self.name} ({len(names)} of {len(self.actions)} actions)"
        return concept_set_from_dict(content, self.name)

    @classmethod
    def from_actions(cls, names: Sequence[str], name: str = "actions") -> ConceptSet:
        """Create a set of action names without descriptions."""
        actions = [{"name": action} for action in names]
        content = {"name": name, "actions": actions, "provenance": {"author": "given by name"}}
        return concept_set_from_dict(content, name)

    @classmethod
    def load(cls, name_or_path: str | Path) -> ConceptSet:
        """Load a bundled set by name (see `list_bundled`), from a JSON file, or from a list of class names.

        A list is a ``.txt``, ``.csv`` or ``.tsv`` file as `labels.read_label_names` reads it; its set has no
        descriptions. A bundled name takes precedence over a file of the same name. Raises ConceptSetError if there is
        no valid set.
        """
        name, path, bundled = str(name_or_path), Path(name_or_path), cls.list_bundled()
        if name in bundled:
            return concept_set_from_dict(registry.load_bundled(name), name)
        if not path.exists():
            raise ConceptSetError(f"{path}: no such file or bundled concept set; bundled sets: {', '.join(bundled)}")
        if path.suffix.lower() in (".txt", ".csv", ".tsv"):
            try:
                names = list(read_label_names(path).values())
            except (ValueError, OSError) as error:
                raise ConceptSetError(str(error)) from None
            actions = [action_entry(label_to_phrase(label), label) for label in names]
            provenance = {"author": "given by name"}
            return concept_set_from_dict({"name": path.stem, "actions": actions, "provenance": provenance}, str(path))
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
    """Validate decoded JSON, or raise ConceptSetError about `source`. The key `format` may be missing."""
    if not isinstance(content, dict):
        raise ConceptSetError(f"{source}: expected a JSON object with the fields of a concept set")
    if content.get("format", FORMAT) not in (FORMAT, FORMAT_WITHOUT_PHASES):  # another format has other fields
        raise ConceptSetError(f"{source}: format: {content['format']!r} is not supported; expected {FORMAT!r}")
    try:
        return ConceptSet.model_validate({**content, "format": FORMAT})
    except ValidationError as error:
        raise ConceptSetError(f"{source}: {_format_validation_error(error.errors()[0])}") from None


def action_entry(name: str, label: str) -> dict[str, str]:
    """Return the JSON entry of an action; `label` is left out if it equals the name."""
    return {"name": name} if name == label else {"name": name, "label": label}


def load_json_strict(path: Path) -> Any:
    """Read a JSON file and reject duplicate keys, of which `json` would silently keep only the last."""

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
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConceptSetError(f"{path}: not valid JSON in UTF-8 ({error}); fix the file") from None


def _format_json(content: dict[str, Any]) -> str:
    """Format with one line per field, action and description, which is easy to read, edit and compare."""
    fields = []
    for key, value in content.items():
        text = json.dumps(value, ensure_ascii=False)
        if key in ("actions", "descriptions") and value:
            text = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in value)
            text = f"[\n{text}\n ]"
        fields.append(f' "{key}": {text}')
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _require_unique(field: str, suffix: str, values: Sequence[str], indices: Sequence[int] | None = None) -> None:
    index_of: dict[str, int] = {}
    for index, value in zip(range(len(values)) if indices is None else indices, values, strict=True):
        if (first := index_of.setdefault(value, index)) != index:
            raise ValueError(f"{field}.{index}{suffix}: {value!r} duplicates {field}.{first}; remove one")


def _format_validation_error(error: Mapping[str, Any]) -> str:
    """Format one pydantic error as "field: problem; fix"."""
    match error["type"]:
        case "value_error":
            problem = error["msg"].removeprefix("Value error, ")
        case "extra_forbidden":
            problem = "unknown key; correct its spelling or remove it"
        case "missing":
            problem = "missing; add it"
        case "too_short" | "string_too_short":
            problem = "is empty; fill it in or remove it"
        case _:
            problem = f"{error['msg'].replace('valid tuple', 'list')}, got {error['input']!r}"
    return ": ".join([*([".".join(map(str, error["loc"]))] if error["loc"] else []), problem])
