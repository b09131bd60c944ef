"""Folders of numbered images that are one video, as mmaction2's rawframes: ``class/video/img_00001.jpg``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

RATE_FILE = "fps.txt"
DEFAULT_RATE = Fraction(25)
_IMAGE_PATTERN = re.compile(r"(.*?)(\d+)\.(jpe?g|png|webp|bmp)", re.IGNORECASE)
_IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_OTHER_STREAMS = ("flow_x", "flow_y")  # optical flow beside the images
_RATE_LEVELS = 4  # the folder itself, and those of its class, split and data set


class FrameSequence(NamedTuple):
    """Images ``{prefix}{number}{extension}`` of a folder, where numbers have at least `digits` digits."""

    prefix: str
    digits: int
    extension: str
    numbers: list[int]


def frame_sequence(names: Iterable[str]) -> FrameSequence | None:
    """Return the numbered images among the file names of a folder; None if they are not the frames of one video.

    They are if there are two or more, and all images of the folder have the same prefix and extension. Images of
    optical flow, hidden files and files of other kinds are ignored.
    """
    numbers: list[int] = []
    kinds: set[tuple[str, str]] = set()
    digits = 0
    for name in names:
        if not name.lower().endswith(_IMAGE_EXTENSIONS) or name.startswith((".", *_OTHER_STREAMS)):
            continue
        match = _IMAGE_PATTERN.fullmatch(name)
        if match is None:
            return None
        kinds.add((match[1], name[match.end(2) :]))
        if len(kinds) > 1:
            return None
        digits = min(digits or len(match[2]), len(match[2]))
        numbers.append(int(match[2]))
    if len(numbers) < 2:
        return None
    ((prefix, extension),) = kinds
    return FrameSequence(prefix, digits, extension, sorted(numbers))


def folder_size(folder: str) -> int | None:
    """Return the bytes of the images of a frame folder; None if it is no such folder."""
    sizes = image_sizes(folder)
    return sum(sizes.values()) if sizes else None


def image_sizes(folder: str) -> dict[str, int]:
    """Return the bytes of each image of a frame folder, by name and in order; empty if it is no such folder."""
    with os.scandir(folder) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    sequence = frame_sequence(sizes)
    if sequence is None:
        return {}
    ends = (sequence.prefix, sequence.extension)
    return {name: size for name, size in sorted(sizes.items()) if name.startswith(ends[0]) and name.endswith(ends[1])}


def frame_rate(folder: str) -> Fraction:
    """Return the frames per second: the number in `RATE_FILE` of the folder or of one of its parents, else 25.

    Raises:
        ValueError: If a file has no positive number.
    """
    for _ in range(_RATE_LEVELS):
        path = os.path.join(folder, RATE_FILE)
        if os.path.isfile(path):
            with open(path, encoding="utf-8-sig", errors="replace") as file:
                text = file.read(100).strip()
            try:
                rate = Fraction(text).limit_denominator(1001)
            except (ValueError, ZeroDivisionError):
                rate = Fraction(0)
            if not 0 < rate <= 1000:
                raise ValueError(f"{path}: {text!r} is not a number of frames per second; write one, such as 25")
            return rate
        folder = os.path.dirname(os.path.abspath(folder))
    return DEFAULT_RATE
