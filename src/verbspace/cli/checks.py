"""Checks of arguments that need neither torch nor a model, so that a wrong name is reported at once.

The functions that take one value and return it are callbacks of options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path


def known_encoder(name: str | None) -> str | None:
    """Raise FileNotFoundError if an encoder is neither a folder nor a hub id."""
    from verbspace.utils.checkpoint_names import find_folder

    if name is not None:
        find_folder(name)
    return name


def known_concepts(name: str | None) -> str | None:
    """Raise ConceptSetError if a concept set is neither bundled nor a valid file."""
    from verbspace.concepts.registry import list_bundled

    if name is not None and name not in list_bundled():
        from verbspace.concepts.concept_set import ConceptSet

        ConceptSet.load(name)
    return name


def existing_videos(path: Path | None) -> Path | None:
    """Raise FileNotFoundError if a folder or list of videos does not exist."""
    if path is not None and not path.exists() and ":/" not in str(path):  # of a URL
        raise FileNotFoundError(f"{path}: there is no such folder or list of videos")
    return path


def existing_file(path: Path | None) -> Path | None:
    """Raise FileNotFoundError if a file does not exist."""
    if path is not None and not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    return path


def existing_calibration(path: Path | None) -> Path | None:
    """Raise FileNotFoundError if the file of a calibration does not exist."""
    if path is not None and not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; create it with `verbspace calibrate`")
    return path


def check_vocabulary(actions: Sequence[str] | None, concepts: str | None, scoring: str) -> None:
    """Raise ValueError if actions and concepts are both given, or scoring has an unknown mode."""
    from verbspace.concepts.scoring import validate_scoring

    if actions is not None and concepts is not None:
        raise ValueError("give actions or concepts, not both")
    validate_scoring(scoring)


def check_annotation_output(output_format: str, out: Path | None, document_root: Path | None) -> None:
    """Raise ValueError unless `--out` and `--document-root` fit the format of `predict`."""
    tools = ("label-studio", "fiftyone")
    if output_format in tools and out is None:
        raise ValueError(f"--format {output_format} writes several files; give a folder with --out")
    if output_format not in tools and out is not None:
        raise ValueError(f"--out is for --format {' and '.join(tools)}; redirect standard output, or add a format")
    if document_root is not None and output_format != "label-studio":
        raise ValueError("--document-root is for --format label-studio; add it, or remove the option")


def is_missing(file: str) -> bool:
    """Whether a local file, a member of a shard or a part of a video does not exist. URLs are not looked up."""
    from verbspace.data.errors import DecodeError
    from verbspace.data.sources.inputs import is_url
    from verbspace.search.signatures import file_signature

    try:
        return not is_url(file) and file_signature(file) is None
    except DecodeError:  # it exists, and its reader reports what is wrong
        return False


def reject_all_missing(files: Iterator[str]) -> Iterator[str]:
    """Return all files; FileNotFoundError if none of them exists."""
    missing: list[str] = []
    for file in files:
        if not is_missing(file):
            return chain(missing, [file], files)
        missing.append(file)
    if missing:
        more = f", nor any of the {len(missing) - 1} others" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]}: there is no such file or folder{more}")
    return iter(())


def skip_missing(files: Iterator[str], on_error: Callable[[str], None]) -> Iterator[str] | None:
    """Report the files before the first one that exists, and return the others; None if there is none."""
    for file in files:
        if not is_missing(file):
            return chain([file], files)
        on_error(f"{file}: there is no such file")
    return None
