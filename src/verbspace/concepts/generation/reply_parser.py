"""Schema and validation of a language model's reply: untrusted text, which is filtered and stored as sentences."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verbspace.concepts.concept_set import DESCRIPTION_KINDS, PHASES, DescriptionKind, Phase
from verbspace.concepts.labels import label_to_phrase
from verbspace.concepts.lint import MIN_CONTENT_WORDS, MIN_PER_KIND
from verbspace.concepts.text import clean_sentence, content_words, normalize_sentence, tokenize_words

MAX_REPLY_CHARS = 20_000
WORD_RANGE = (5, 45)  # words of a sentence; 45 words fit into CLIP's 77 tokens
ALLOWED_CHARS = "A-Za-z0-9À-ÿ ,;:()'’%/-"
SENTENCE_PATTERN = f"^[A-Z][{ALLOWED_CHARS}]{{15,240}}\\.$"
NAME_PATTERN = f"^[a-zA-Z][{ALLOWED_CHARS}]{{2,60}}$"


class InvalidReplyError(ValueError):
    """A reply that cannot be used. The message gives the reason and is also sent to the model."""


class Reply(BaseModel):
    """A readable action name, sentences by kind, and by phase if the action has an order."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    motion: list[str] = Field(max_length=50)
    pose: list[str] = Field(max_length=50)
    objects: list[str] = Field(max_length=50)
    scene: list[str] = Field(max_length=50)
    start: list[str] = Field([], max_length=50)
    middle: list[str] = Field([], max_length=50)
    end: list[str] = Field([], max_length=50)

    def sentences(self) -> Iterable[tuple[DescriptionKind, Phase | None, str]]:
        """Yield kind, phase and text of each sentence. Those of a phase show a moment, which is a pose."""
        for kind in DESCRIPTION_KINDS:
            for text in getattr(self, kind):
                yield kind, None, text
        for phase in PHASES:
            for text in getattr(self, phase):
                yield "pose", phase, text


def sentence_counts(min_per_kind: int) -> dict[DescriptionKind, int]:
    """Return how many sentences of each kind to request."""
    return {kind: max(minimum, min_per_kind) for kind, minimum in MIN_PER_KIND.items()}


def reply_schema(min_per_kind: int) -> dict[str, Any]:
    """Return the JSON schema of a reply, in the subset that OpenAI and llama.cpp's grammars support."""
    sentence_lists: dict[str, dict[str, Any]] = {
        kind: {
            "type": "array",
            "minItems": count,
            "maxItems": count + 1,
            "items": {"type": "string", "pattern": SENTENCE_PATTERN},
        }
        for kind, count in sentence_counts(min_per_kind).items()
    }
    sentence_lists |= {
        phase: {"type": "array", "maxItems": 3, "items": {"type": "string", "pattern": SENTENCE_PATTERN}}
        for phase in PHASES
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", *DESCRIPTION_KINDS, *PHASES],
        "properties": {"name": {"type": "string", "pattern": NAME_PATTERN}, **sentence_lists},
    }


def parse_reply(content: str, label: str, labels: Iterable[str]) -> tuple[Reply, list[str]]:
    """Validate a reply about the action `label` and clean its sentences.

    Returns the usable part of the reply, and a message for each dropped sentence: a duplicate, or one that contains
    markup, is too short or too long, names another action of `labels`, or adds nothing to the action's name. Phases are
    dropped unless they tell the start of the action from its end. Raises InvalidReplyError if the reply is malformed,
    or has too few usable sentences.
    """
    if len(content) > MAX_REPLY_CHARS:
        raise InvalidReplyError(f"the reply has {len(content):,} characters, more than {MAX_REPLY_CHARS:,}")
    reply = _parse_json(content)
    own_words = {word for name in (label, reply.name) for word in tokenize_words(label_to_phrase(name))}
    other_phrases = [phrase for other in labels if other != label for phrase in _name_phrases(other)]
    other_phrases = [phrase for phrase in other_phrases if not own_words.issuperset(phrase)]
    sentences: dict[str, list[str]] = {name: [] for name in (*DESCRIPTION_KINDS, *PHASES)}
    issues: list[str] = []
    seen: set[str] = set()
    for kind, phase, raw in reply.sentences():
        text = clean_sentence(raw)
        key = normalize_sentence(text)
        issue = "is a duplicate" if key in seen else _find_issue(text, own_words, other_phrases)
        if issue:
            issues.append(f"{phase or kind}: {text[:80]!r} {issue}")
        else:
            seen.add(key)
            sentences[phase or kind].append(text)
    counts = [(kind, len(sentences[kind]), minimum) for kind, minimum in MIN_PER_KIND.items()]
    if missing := [f"{count} of {minimum} {kind}" for kind, count, minimum in counts if count < minimum]:
        reasons = f": {'; '.join(issues[:4])}" if issues else ""
        raise InvalidReplyError(f"too few usable sentences ({', '.join(missing)}){reasons}")
    if issue := _find_phase_issue(sentences):
        issues.append(issue)
        sentences |= {phase: [] for phase in PHASES}
    return Reply(name=_clean_name(reply.name, label), **sentences), issues


def _find_phase_issue(sentences: dict[str, list[str]]) -> str | None:
    """Return why the sentences of phases are unusable, or None if they are usable or there are none."""
    if not any(sentences[phase] for phase in PHASES):
        return None
    start, end = ({word for text in sentences[phase] for word in content_words(text)} for phase in ("start", "end"))
    if not start or not end:
        return "start, end: there are usable sentences of only one of them"
    return "start, end: both say the same" if start == end else None


def _parse_json(content: str) -> Reply:
    """Parse the first JSON object of a reply; text or code fences around it are ignored."""
    start = content.find("{")
    if start < 0:
        raise InvalidReplyError(f"the reply contains no JSON object: {content[:80]!r}")
    try:
        decoded, _ = json.JSONDecoder().raw_decode(content, start)
        return Reply.model_validate(decoded)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the object"
        raise InvalidReplyError(f"the reply does not match the schema: {field}: {first['msg']}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidReplyError(f"the reply is not valid JSON ({error})") from None


@cache
def _name_phrases(label: str) -> list[tuple[str, ...]]:
    """Return the words whose sequence counts as naming an action; a single word only if it has six letters or more."""
    words = tuple(tokenize_words(re.sub(r"\(.*?\)", "", label_to_phrase(label))))
    return [words] if len(words) > 1 or (words and len(words[0]) >= 6) else []


def _find_issue(text: str, own_words: set[str], other_phrases: list[tuple[str, ...]]) -> str | None:
    """Return why a sentence is unusable, or None if it is usable."""
    words = tokenize_words(text)
    if re.search(r"[<>{}\[\]`\\|\x00-\x1f\x7f]|https?:", text) or any(unicodedata.category(c) == "Cf" for c in text):
        return "contains markup"
    if not WORD_RANGE[0] <= len(words) <= WORD_RANGE[1]:
        return f"has {len(words)} words, expected {WORD_RANGE[0]} to {WORD_RANGE[1]}"
    if len(content_words(text, own_words)) < MIN_CONTENT_WORDS:
        return "adds nothing to the action's name"
    joined = f" {' '.join(words)} "
    for phrase in map(" ".join, other_phrases):
        if f" {phrase} " in joined:
            return f"names another action ({phrase})"
    return None


def _clean_name(name: str, label: str) -> str:
    """Return the name of a reply if it is suitable for a prompt, else the words of the label."""
    name = " ".join(name.split()).strip("\"'“”.")
    words = tokenize_words(name)
    if not (1 <= len(words) <= 8 and len(name) <= 60 and re.fullmatch(f"[{ALLOWED_CHARS}]+", name)):
        return label_to_phrase(label)
    return name[0].lower() + name[1:] if name[1:2].islower() else name
