"""Tokenizer and pixel statistics of a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchEncoding

from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.transforms import Interpolation
from verbspace.models.backbones import image_size
from verbspace.models.validation import SAMPLE_TEXTS, reject_open_clip
from verbspace.utils.text import first_line

logger = logging.getLogger(__name__)

# Defaults of the image processors of these families in transformers.
CLIP_PIXEL_STATS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIGLIP_PIXEL_STATS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_INTERPOLATIONS: dict[object, Interpolation] = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
_MIN_VOCABULARY = 0.9  # smallest size of a vocabulary as a fraction of the rows of its embedding, which are rounded up


@dataclass(frozen=True)
class Processor:
    """A tokenizer and the settings of an image processor, which are saved unchanged.

    Attributes:
        tokenizer: A tokenizer of `transformers`.
        image_processor_config: The content of preprocessor_config.json.
        preprocessing: How evaluation fits frames to the native size, as the image processor does it.
        context_length: Maximum number of tokens of the text tower.
        is_siglip: Lower-case texts and pad them to the context length without a mask, as SigLIP and SigLIP 2 were
            trained. The tokenizer of CLIP does its own lower-casing.
    """

    tokenizer: Any
    image_processor_config: dict[str, Any]
    preprocessing: FramePreprocessing
    context_length: int
    is_siglip: bool

    @classmethod
    def from_folder(cls, folder: Path, base_config: Any) -> Processor:
        """Read the processor of a checkpoint with a CLIP-family config.

        Raises:
            ValueError: A file is missing or cannot be read, or the tokenizer does not belong to the text tower.
        """
        siglip = str(base_config.model_type).startswith("siglip")
        image_config, image_file = _read_image_processor_config(folder)
        preprocessing = _frame_preprocessing(image_config, image_file, base_config)
        file = _find_tokenizer_file(folder)
        context_length = int(base_config.text_config.max_position_embeddings)
        processor = cls(_read_tokenizer(folder), image_config, preprocessing, context_length, siglip)
        _validate_tokenizer(file, processor, base_config)
        return processor

    def save(self, folder: Path) -> None:
        """Write the files that `from_folder` reads."""
        if self.tokenizer.is_fast:  # otherwise the padding and truncation of the last call would be saved too
            self.tokenizer.backend_tokenizer.no_padding()
            self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(folder)
        text = json.dumps(self.image_processor_config, indent=2) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")

    @property
    def image_mean(self) -> list[float]:
        """Mean per channel of pixel values in [0, 1]."""
        return list(self.image_processor_config["image_mean"])

    @property
    def image_std(self) -> list[float]:
        """Standard deviation per channel of pixel values in [0, 1]."""
        return list(self.image_processor_config["image_std"])

    def normalize(self, video: Tensor) -> Tensor:
        """Normalize frames (..., 3, H, W), uint8 or floating point in [0, 1], with the checkpoint's statistics."""
        scale = 255 if video.dtype == torch.uint8 else 1
        mean, std = (
            scale * torch.tensor(values, device=video.device).view(3, 1, 1)
            for values in (self.image_mean, self.image_std)
        )
        return (video.float() - mean).div_(std)

    def tokenize(self, texts: list[str]) -> BatchEncoding:
        """Convert texts to inputs of the text tower, truncated to the context length."""
        encoding = self.tokenizer(
            [text.lower() for text in texts] if self.is_siglip else texts,
            padding="max_length" if self.is_siglip else True,
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        if self.is_siglip:
            return BatchEncoding({"input_ids": encoding["input_ids"]})
        return BatchEncoding({name: encoding[name] for name in ("input_ids", "attention_mask")})

    def tokenize_batches(self, texts: Sequence[str], batch_size: int) -> Iterator[BatchEncoding]:
        """Convert texts batch by batch. Texts that are truncated are logged at the end, in one message."""
        truncated: list[tuple[str, int]] = []
        for start in range(0, len(texts), batch_size):
            batch = list(texts[start : start + batch_size])
            encoding = self.tokenize(batch)
            counts = ((batch[row], self.count_tokens(batch[row])) for row in self._full_rows(encoding))
            truncated += [(text, count) for text, count in counts if count > self.context_length]
            yield encoding
        if truncated:
            text, count = truncated[0]
            _warn_once(
                f"{len(truncated):,} of {len(texts):,} texts are cut at the {self.context_length} tokens that this "
                f"model reads, such as {text!r} with {count} tokens; shorten them"
            )

    def _full_rows(self, encoding: BatchEncoding) -> list[int]:
        """Return the rows that have all tokens that the text tower reads, or all but one."""
        ids = encoding["input_ids"]
        if ids.shape[1] < self.context_length:
            return []
        if "attention_mask" in encoding:
            is_full = encoding["attention_mask"].all(1)
        else:  # SigLIP: the last token is the end token, which may also be the padding
            is_full = ids[:, -2] != self.tokenizer.pad_token_id
        rows: list[int] = is_full.nonzero().flatten().tolist()
        return rows

    def count_tokens(self, text: str) -> int:
        """Count the tokens of a text before truncation, special tokens included."""
        return len(self.tokenizer(text.lower() if self.is_siglip else text, verbose=False)["input_ids"])


@cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raise FileNotFoundError or ValueError, naming the file, if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        reject_open_clip(path.parent)
        raise FileNotFoundError(f"{path}: no such file; pass the folder of a saved model, or a hub id") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a JSON object")
    return content


def _find_tokenizer_file(folder: Path) -> Path:
    """Return the file with the vocabulary. `transformers` would replace a missing one by one of two or three tokens."""
    vocabulary = folder / "vocab.json"
    if vocabulary.exists() and not (folder / "merges.txt").exists() and not (folder / "tokenizer.json").exists():
        raise ValueError(f"{folder}: vocab.json needs merges.txt, which is missing; copy it from the original model")
    for file in (folder / "tokenizer.json", vocabulary, *sorted(folder.glob("*.model"))):
        if file.exists():
            return file
    raise ValueError(
        f"{folder}: no tokenizer.json, no vocab.json and no sentencepiece model; save the tokenizer there with "
        "save_pretrained"
    )


def _read_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise ValueError(
            f"{folder}: the tokenizer needs a missing package; pip install sentencepiece protobuf"
        ) from error
    except Exception as error:
        raise ValueError(f"{folder}: cannot read the tokenizer: {first_line(error)}") from error


def _validate_tokenizer(file: Path, processor: Processor, base_config: Any) -> None:
    """Raise ValueError if a tokenizer does not distinguish two texts, or if its ids do not fit the text tower."""
    advice = "use the tokenizer that the model was trained with"
    first, second = rows = processor.tokenize(list(SAMPLE_TEXTS))["input_ids"].tolist()
    text_config = base_config.text_config
    if first == second:
        raise ValueError(f"{file}: different texts have the same tokens; {advice}")
    largest, rows_of_embedding = max(*first, *second, processor.tokenizer.vocab_size - 1), text_config.vocab_size
    if largest >= rows_of_embedding or len(processor.tokenizer) < _MIN_VOCABULARY * rows_of_embedding:
        raise ValueError(
            f"{file}: has tokens up to {largest}, but vocab_size of config.json is {rows_of_embedding}; {advice}"
        )
    end = text_config.eos_token_id
    if processor.is_siglip or not isinstance(end, int):  # the text tower of SigLIP takes the last token
        return
    if end == 2 and base_config.model_type == "clip":  # a wrong value of early configs: CLIP takes the largest token
        if any(max(row) != processor.tokenizer.eos_token_id for row in rows):
            raise ValueError(f"{file}: the end token is not the largest token of a text; {advice}")
    elif any(end not in row for row in rows):
        raise ValueError(f"{file}: does not end texts with eos_token_id {end} of config.json; {advice}")


def _read_image_processor_config(folder: Path) -> tuple[dict[str, Any], Path]:
    """Read preprocessor_config.json, or the section of processor_config.json that replaces it in newer checkpoints.

    Returns the content and the file.

    The file is read as JSON because the image processors of `transformers` may require torchvision.
    """
    path, newer = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.exists():
        config = read_json(path)
    elif newer.exists() and "image_processor" in (content := read_json(newer)):
        path, config = newer, content["image_processor"]
    else:
        raise ValueError(
            f"{folder}: no preprocessor_config.json, which says how pixels are normalized; copy it from the original "
            "model"
        )
    for name in ("do_normalize", "do_rescale"):
        if config.get(name, True) is not True:
            raise ValueError(f"{path}: {name}: {config[name]!r} is not supported; it must be true")
    if abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
        raise ValueError(f"{path}: rescale_factor: {config['rescale_factor']!r} is not supported; it must be 1/255")
    for name in ("image_mean", "image_std"):
        values = config.get(name)
        if not (isinstance(values, list) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)):
            raise ValueError(f"{path}: {name}: {values!r} is not a list of three numbers")
    return config, path


def _frame_preprocessing(config: dict[str, Any], path: Path, base_config: Any) -> FramePreprocessing:
    """Read how an image processor resizes. Fields that are missing have the defaults of the family in `transformers`.

    NaFlex models take any aspect ratio, unless the processor has a fixed `size`.
    """
    family = str(base_config.model_type)
    resample = config.get("resample", 2 if family == "siglip2" else 3)
    if resample not in _INTERPOLATIONS:
        raise ValueError(f"{path}: resample: {resample!r} is not supported; use 2 (bilinear) or 3 (bicubic)")
    size = config.get("size")
    sides_given = size.keys() & {"height", "width", "shortest_edge"} if isinstance(size, dict) else set()
    native = image_size(base_config.vision_config)
    if family == "siglip2" and not sides_given:
        return _naflex_preprocessing(config, path, base_config.vision_config, native, _INTERPOLATIONS[resample])
    if sides_given:
        squash = "shortest_edge" not in sides_given
    else:  # CLIP's early configs have the short side as a number
        squash = family.startswith("siglip")
    crop = config.get("crop_size") if config.get("do_center_crop", True) and not squash else size
    sides = set(crop.values()) if isinstance(crop, dict) else {crop}
    if family != "siglip2" and any(isinstance(side, int) and side != native for side in sides):
        raise ValueError(
            f"{path}: frames of {crop} do not fit image_size {native} of config.json; use both of one model"
        )
    return FramePreprocessing(native, "squash" if squash else "shortest_edge", _INTERPOLATIONS[resample])


def _naflex_preprocessing(
    config: dict[str, Any], path: Path, vision_config: Any, native: int, interpolation: Interpolation
) -> FramePreprocessing:
    patch_size = config.get("patch_size", vision_config.patch_size)
    max_num_patches = config.get("max_num_patches", 256)  # the default of transformers
    if patch_size != vision_config.patch_size:
        raise ValueError(
            f"{path}: patch_size: {patch_size!r} is not the patch_size {vision_config.patch_size} of config.json; use "
            "both of one model"
        )
    if type(max_num_patches) is not int or max_num_patches < 1:
        raise ValueError(f"{path}: max_num_patches: {max_num_patches!r} is not supported; it must be 1 or more")
    return FramePreprocessing(native, "keep_aspect", interpolation, patch_size, max_num_patches)
