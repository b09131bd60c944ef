"""Checks of a checkpoint that `transformers` does not make: that every part is there, is finite and fits the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

SAMPLE_TEXTS = ("a man is running", "a man is jumping")  # of the same length
OPEN_CLIP_CONVERTER = "https://gist.github.com/rwightman/c79fd0241ed3c860e898114931c07990"
_TOWERS = ("text_model.", "vision_model.", "text_projection.", "visual_projection.")
_IGNORED = (".position_ids",)  # a buffer that older versions of transformers saved
_LFS_POINTER = b"version https://git-lfs"


def reject_open_clip(folder: Path) -> None:
    """Raise ValueError if a folder has no config.json, but a model in the format of open_clip."""
    names = sorted(path.name for path in folder.glob("open_clip*"))
    if names and not (folder / "config.json").exists():
        raise ValueError(
            f"{folder}: {names[0]} is in the format of open_clip, and there is no config.json of transformers; convert "
            f"the model with {OPEN_CLIP_CONVERTER}, or pass one that is published in both formats, such as "
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
        )


def reject_lfs_pointer(path: Path) -> None:
    """Raise ValueError if a file is the pointer that git leaves if git-lfs is not installed."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(f"{path}: is a pointer of Git LFS, not the file itself; run `git lfs pull` in its folder")


def validate_loaded_weights(
    model: nn.Module,
    path: Path,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[tuple[str, Iterable[int], Iterable[int]]],
) -> None:
    """Raise ValueError unless the weights of a file are exactly those of the model's config, and finite.

    Args:
        model: The model that was loaded.
        path: File of the weights, for messages.
        missing: Names of the weights that the file lacks.
        unexpected: Names in the file that the model lacks. Those outside of the towers are ignored.
        mismatched: Name, shape in the file and shape in the model.
    """
    advice = "use config.json and weights of one model"
    if shapes := sorted((name, tuple(found), tuple(expected)) for name, found, expected in mismatched):
        name, found, expected = shapes[0]
        raise ValueError(f"{path}: {name} is {found}, but config.json says {expected}; {advice}")
    if names := sorted(missing):
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise ValueError(f"{path}: {names[0]} is missing{others}; {advice}")
    if names := sorted(n for n in unexpected if n.startswith(_TOWERS) and not n.endswith(_IGNORED)):
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise ValueError(f"{path}: {names[0]}{others} is in the file, but not in config.json; {advice}")
    validate_finite(model, path)


def validate_finite(model: nn.Module, path: Path) -> None:
    """Raise ValueError, naming the first one, if weights are not finite."""
    for name, tensor in model.state_dict().items():
        # The sum is faster, but that of finite values may be infinite.
        if tensor.is_floating_point() and not (tensor.sum().isfinite() or tensor.isfinite().all()):
            raise ValueError(f"{path}: {name} has values that are not finite; the file is damaged, get it again")


def validate_text_tower(encode_text: Callable[[Sequence[str]], Tensor], path: Path) -> None:
    """Raise ValueError unless two different texts have two different vectors."""
    first, second = encode_text(SAMPLE_TEXTS)
    if not bool(first.isfinite().all() and first.any()) or torch.equal(first, second):
        raise ValueError(
            f"{path}: the text tower has no usable vectors: {SAMPLE_TEXTS[0]!r} and {SAMPLE_TEXTS[1]!r} have the same "
            "one, or none; use weights and tokenizer of one model"
        )
