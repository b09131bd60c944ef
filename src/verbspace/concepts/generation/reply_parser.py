"""What a language model is to send for an action, and what is kept of what it sent.

A reply is text from a stranger: it is parsed as JSON, checked, and stored as plain sentences. Nothing in it is
followed or run.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verbspace.concepts.concept_set import DescriptionKind
from verbspace.concepts.labels import label_to_phrase, normalize_sentence, stem, tokenize_words

DESCRIPTION_KINDS: tuple[DescriptionKind, ...] = get_args(DescriptionKind)
MIN_PER_KIND: dict[DescriptionKind, int] = {"motion": 2, "pose": 1, "objects": 1, "scene": 1}
MAX_REPLY_CHARS = 20_000  # characters
WORD_RANGE = (5, 45)  # of a sentence; 45 stay below CLIP's 77 tokens
ALLOWED_CHARS = "A-Za-z0-9À-ÿ ,;:()'’%/-"
SENTENCE_PATTERN = f"^[A-Z][{ALLOWED_CHARS}]{{15,240}}\\.$"
NAME_PATTERN = f"^[a-zA-Z][{ALLOWED_CHARS}]{{2,60}}$"
STOP_WORDS = frozenset(
    tokenize_words(
        """a an the of in on at to and or with by for from into onto over under up down off out as is are be being its
        it their his her them they he she one two person people someone somebody man woman body video camera while then
        this that there not no"""
    )
)


class InvalidReplyError(ValueError):
    """A reply that cannot be used; the message says why, in words that the model is told as well."""


class Reply(BaseModel):
    """A readable name, and sentences by kind."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    motion: list[str] = Field(max_length=50)
    pose: list[str] = Field(max_length=50)
    objects: list[str] = Field(max_length=50)
    scene: list[str] = Field(max_length=50)

    def sentences(self) -> Iterable[tuple[DescriptionKind, str]]:
        """Kind and text of each sentence, kind by kind."""
        for kind in DESCRIPTION_KINDS:
            for text in getattr(self, kind):
                yield kind, text


def reply_schema(min_per_kind: int) -> dict[str, Any]:
    """JSON schema of a reply, within what OpenAI's structured outputs and llama.cpp's grammars understand."""

    def sentence_array(min_items: int, max_items: int) -> dict[str, Any]:
        return {
            "type": "array",
            "minItems": min_items,
            "maxItems": max_items,
            "items": {"type": "string", "pattern": SENTENCE_PATTERN},
        }

    lists = {
        kind: sentence_array(max(MIN_PER_KIND[kind], min_per_kind), max(MIN_PER_KIND[kind], min_per_kind) + 1)
        for kind in DESCRIPTION_KINDS
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", *DESCRIPTION_KINDS],
        "properties": {"name": {"type": "string", "pattern": NAME_PATTERN}, **lists},
    }


def parse_reply(content: str, label: str, labels: Iterable[str]) -> tuple[Reply, list[str]]:
    """The usable part of a reply about the action `label` of a vocabulary `labels`, and what was left out of it.

    White space is made plain, list marks and quotes are taken off, and repeated sentences go, as do those that hold
    markup, name another action, or say nothing beyond the name. Raises BadReply where too little is left.
    """
    if len(content) > MAX_REPLY_CHARS:
        raise InvalidReplyError(f"the reply has {len(content):,} characters, more than {MAX_REPLY_CHARS:,}")
    reply = _parse_json(content)
    others = [phrase for other in labels if other != label for phrase in _name_phrases(other)]
    own = {word for phrase in (label, reply.name) for word in tokenize_words(label_to_phrase(phrase))}
    others = [phrase for phrase in others if not set(phrase) <= own]
    kept: dict[str, list[str]] = {kind: [] for kind in DESCRIPTION_KINDS}
    faults: list[str] = []
    seen: set[str] = set()
    for kind, raw in reply.sentences():
        text = clean_sentence(raw)
        fault = _find_issue(text, own, others)
        if normalize_sentence(text) in seen:
            fault = "stands twice"
        if fault:
            faults.append(f"{kind}: {text[:80]!r} {fault}")
            continue
        seen.add(normalize_sentence(text))
        kept[kind].append(text)
    few = [f"{len(kept[kind])} of {least} {kind}" for kind, least in MIN_PER_KIND.items() if len(kept[kind]) < least]
    if few:
        why = f": {'; '.join(faults[:4])}" if faults else ""
        raise InvalidReplyError(f"too few usable sentences ({', '.join(few)}){why}")
    return Reply(name=_clean_name(reply.name, label), **kept), faults


def clean_sentence(text: str) -> str:
    """A sentence with single spaces, a capital and a full stop, and without list marks or quotes around it."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = re.sub(r"^(?:[-*•]|\d{1,2}[.)])\s+", "", text).strip("\"'“”‘’ ")
    if not text:
        return text
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text.rstrip(",;:") + "."


def _parse_json(content: str) -> Reply:
    """The JSON object in a reply, also where fences or words stand around it."""
    start = content.find("{")
    if start < 0:
        raise InvalidReplyError(f"the reply holds no JSON object: {content[:80]!r}")
    try:
        found, _ = json.JSONDecoder().raw_decode(content[start:])
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidReplyError(f"the reply is not whole JSON ({error})") from None
    try:
        return Reply.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise InvalidReplyError(f"the reply has another form than asked for: {field}: {first['msg']}") from None


def _name_phrases(label: str) -> list[tuple[str, ...]]:
    """What counts as naming an action: its words in a row, one word only where it is a long one."""
    words = tuple(tokenize_words(re.sub(r"\(.*?\)", "", label_to_phrase(label))))
    return [words] if len(words) > 1 or (words and len(words[0]) >= 6) else []


def _find_issue(text: str, own_words: set[str], other_phrases: list[tuple[str, ...]]) -> str | None:
    """What makes a sentence unusable, or None."""
    words = tokenize_words(text)
    if re.search(r"[<>{}\[\]`\\|\x00-\x1f\x7f]|https?:", text) or any(unicodedata.category(c) == "Cf" for c in text):
        return "holds markup"
    if not WORD_RANGE[0] <= len(words) <= WORD_RANGE[1]:
        return f"has {len(words)} words, not {WORD_RANGE[0]} to {WORD_RANGE[1]}"
    if len(content_words(text, own_words)) < 2:
        return "says nothing beyond the action's name"
    for phrase in other_phrases:
        size = len(phrase)
        if any(tuple(words[i : i + size]) == phrase for i in range(len(words) - size + 1)):
            return f"names another action ({' '.join(phrase)})"
    return None


def content_words(text: str, exclude: Iterable[str]) -> set[str]:
    """Stems of the words of a sentence that carry meaning and are not the action's own."""
    known = {stem(word) for word in exclude}
    return {stem(word) for word in tokenize_words(text) if word not in STOP_WORDS} - known


def _clean_name(name: str, label: str) -> str:
    """The reply's name where it can stand in a prompt, else the label's own words."""
    name = " ".join(name.split()).strip("\"'“”.")
    fine = 1 <= len(tokenize_words(name)) <= 8 and len(name) <= 60 and re.fullmatch(f"[{ALLOWED_CHARS}]+", name)
    return (name[0].lower() + name[1:] if name[1:2].islower() else name) if fine else label_to_phrase(label)
