"""Words and pixel statistics: the tokenizer and the image processor's settings that come with a
checkpoint."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BatchEncoding

# What transformers' image processors of these families take where nothing is said.
CLIP_PIXEL_STATS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIGLIP_PIXEL_STATS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@dataclass(frozen=True)
class Processor:
    """A tokenizer, and an image processor's settings, kept to be written back unchanged.

    context: tokens that the text tower takes at most. siglip: texts are lower-cased and padded to the whole
    context, without a mask, as SigLIP and SigLIP 2 were trained; CLIP's own tokenizer lower-cases.
    """

    tokenizer: Any
    image_processor_config: dict[str, Any]
    context_length: int
    is_siglip: bool

    @classmethod
    def from_folder(cls, folder: Path, base_config: Any) -> Processor:
        """From a checkpoint's folder; `base` is its CLIP-family config. Raises ValueError for what cannot
        be read."""
        siglip = str(base_config.model_type).startswith("siglip")
        processor = _read_image_processor_config(folder, SIGLIP_PIXEL_STATS if siglip else CLIP_PIXEL_STATS)
        return cls(_read_tokenizer(folder), processor, int(base_config.text_config.max_position_embeddings), siglip)

    def save(self, folder: Path) -> None:
        """Into a folder, for `read`."""
        if self.tokenizer.is_fast:  # else what the last texts were padded and cut to would be written too
            self.tokenizer.backend_tokenizer.no_padding()
            self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.save_pretrained(folder)
        text = json.dumps(self.image_processor_config, indent=2) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")

    @property
    def image_mean(self) -> list[float]:
        """Per channel, of values in 0..1."""
        return list(self.image_processor_config["image_mean"])

    @property
    def image_std(self) -> list[float]:
        """Per channel, of values in 0..1."""
        return list(self.image_processor_config["image_std"])

    def tokenize(self, texts: list[str]) -> BatchEncoding:
        """Texts -> the text tower's inputs. What is longer than the context is cut off."""
        words = self.tokenizer(
            [text.lower() for text in texts] if self.is_siglip else texts,
            padding="max_length" if self.is_siglip else True,
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        kept = ("input_ids",) if self.is_siglip else ("input_ids", "attention_mask")
        return BatchEncoding({name: words[name] for name in kept})

    def count_tokens(self, text: str) -> int:
        """Tokens of a text with its end marks, before anything is cut off."""
        return len(self.tokenizer(text.lower() if self.is_siglip else text, verbose=False)["input_ids"])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError or ValueError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file; give a folder with a saved model, or a hub id"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return content


def _read_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError as error:
        raise ValueError(
            f"{folder}: the tokenizer needs a package that is missing; pip install sentencepiece protobuf"
        ) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: the tokenizer cannot be read: {reason}") from error


def _read_image_processor_config(folder: Path, default: dict[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json, or its newer place within processor_config.json.

    Read as JSON: transformers' own loading may ask for torchvision.
    """
    path, newer = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.exists():
        processor = read_json(path)
    elif newer.exists() and "image_processor" in (content := read_json(newer)):
        path, processor = newer, content["image_processor"]
    else:
        warnings.warn(
            f"{folder}: has no preprocessor_config.json; pixels are normalised as in the first checkpoints "
            f"of this family (mean {default['image_mean']})",
            stacklevel=4,
        )
        return dict(default)
    for name in ("image_mean", "image_std"):
        values = processor.get(name)
        if not (isinstance(values, list) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)):
            raise ValueError(f"{path}: {name}: {values!r} is not three numbers")
    return processor
