"""Encoders on disk and on the hub: folders in, folders out. Only JSON, tokenizer files and safetensors are ever read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BatchEncoding

if TYPE_CHECKING:
    from verbspace.model.encoder import VideoEncoder

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md"]


@dataclass
class Sources:
    """The tokenizer and the image processor's settings that came with a checkpoint, kept to be written back unchanged."""

    tokenizer: Any = None
    processor: dict[str, Any] | None = None
    context: int | None = None
    pads_fully: bool = False

    @classmethod
    def read(cls, folder: Path, image_size: int) -> Sources:
        """From a checkpoint's folder."""
        path = folder / "preprocessor_config.json"
        processor = read_json(path) if path.exists() else {"size": image_size, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
        config = read_json(folder / "config.json")
        inner = config.get("base", config)
        text = inner.get("text_config", {})
        siglip = str(inner.get("model_type", "")).startswith("siglip")
        context = text.get("max_position_embeddings", 64 if siglip else 77)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder}: the tokenizer cannot be read: {str(error).splitlines()[0]}") from None
        return cls(tokenizer, processor, int(context), siglip)

    @property
    def mean(self) -> list[float]:
        """Per channel, of values in 0..1."""
        return [float(v) for v in (self.processor or {}).get("image_mean", CLIP_MEAN)]

    @property
    def std(self) -> list[float]:
        """Per channel, of values in 0..1."""
        return [float(v) for v in (self.processor or {}).get("image_std", CLIP_STD)]

    def tokenize(self, texts: list[str]) -> BatchEncoding:
        """Texts to model inputs. SigLIP was trained on texts padded to the full context without a mask; CLIP on masked ones."""
        words = self.tokenizer(
            texts,
            padding="max_length" if self.pads_fully else True,
            truncation=True,
            max_length=self.context,
            return_tensors="pt",
        )
        if self.pads_fully:
            words.pop("attention_mask", None)
        words.pop("token_type_ids", None)
        return words


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError or ValueError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file; give a folder with a saved model, or a hub id") from None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no JSON object")
    return content


def find(name_or_path: str | Path) -> Path:
    """A local folder as it is, or a hub repository's snapshot of the files that are read."""
    path = Path(name_or_path)
    if path.is_dir():
        return path / "encoder" if not (path / "config.json").exists() and (path / "encoder").is_dir() else path
    name = str(name_or_path)
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise FileNotFoundError(f"{name}: there is no such folder, and this is no hub id (owner/name)")
    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS))
    except Exception as error:
        raise FileNotFoundError(f"{name}: is no folder here and could not be had from the hub: {str(error).splitlines()[0]}") from error


def require_safetensors(folder: Path) -> None:
    """Raise ValueError for a checkpoint that has its weights in another format."""
    if any(folder.glob("*.safetensors")):
        return
    found = next(iter(sorted(p.name for p in folder.glob("*.bin"))), None)
    reason = f"has only {found}, which is a pickle and is not read" if found else "has no model.safetensors"
    raise ValueError(f"{folder}: {reason}; save the model with safe_serialization=True")


def load_weights(encoder: VideoEncoder, folder: Path) -> None:
    """Fill an encoder from `model.safetensors`. Raises ValueError where they do not fit."""
    require_safetensors(folder)
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as safetensors: {error}") from None
    missing, unexpected = encoder.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unexpected:
        raise ValueError(f"{path}: does not fit config.json (at {[*missing, *unexpected][0]}); the two are of different models")


def save(encoder: VideoEncoder, folder: Path) -> None:
    """Write everything into a temporary folder beside the target, then rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.part-"))
    try:
        config = {**encoder.config.to_dict(), "architectures": ["VideoEncoder"], "model_type": "verbspace"}
        (part / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
        if encoder.sources.tokenizer is not None:
            encoder.sources.tokenizer.save_pretrained(part)
        if encoder.sources.processor is not None:
            (part / "preprocessor_config.json").write_text(json.dumps(encoder.sources.processor, indent=2) + "\n")
        if encoder.concept_set is not None:
            encoder.concept_set.save(part / "concept_set.json")
        (part / "README.md").write_text(model_card(encoder))
        part.chmod(0o755)
        old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def model_card(encoder: VideoEncoder) -> str:
    """The README of a saved encoder: front matter for the hub, what it is, how to use it."""
    base = encoder.config.base_name
    named = base.count("/") == 1 and not base.startswith((".", "/"))
    concepts = encoder.concept_set
    lines = ["---", "library_name: verbspace", "pipeline_tag: video-classification"]
    lines += [f"base_model: {base}"] if named else []
    lines += ["tags:", "- video", "- action-recognition", "- self-supervised", "- clip", "---", "", "# A verbspace video encoder", ""]
    built = f"from {base}, " if named else ""
    lines += [f"An image CLIP with temporal attention, {built}adapted to video without labels by language-tied self-distillation."]
    if concepts is not None:
        author = concepts.provenance.author
        lines += ["", f"Concept set: {concepts.name} ({len(concepts.actions)} actions, {len(concepts.descriptions)} descriptions, written by {author}; hash {concepts.hash})."]
    lines += ["", "```python", "import verbspace as vs", "", 'encoder = vs.VideoEncoder.from_pretrained("this folder or repository")']
    lines += ['z = encoder.encode_video(["clip.mp4"])', 'words = encoder.encode_text(["a person waving"])', "print(z @ words.T)", "```", ""]
    return "\n".join(lines)


def push(encoder: VideoEncoder, repo_id: str, *, private: bool | None, token: str | None) -> str:
    """Create the repository if need be, and upload a saved encoder in one commit."""
    api = HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(encoder, Path(folder) / "encoder")
        api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "encoder", commit_message="Upload a verbspace encoder")
    return str(url)


