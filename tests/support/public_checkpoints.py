"""Repositories laid out as public ones on the Hugging Face hub, with random weights.

File names, configs and special token ids follow the public repositories, including the fields of their time. CLIP's
vocabulary is the real one. The vocabularies of SigLIP, SigLIP 2 and MetaCLIP 2 have several hundred megabytes of
embeddings and other licenses; small ones of the same kind are trained on the descriptions of the bundled concepts.
"""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoConfig, AutoModel, CLIPTokenizer

from verbspace.concepts.concept_set import ConceptSet

MERGES = Path(__file__).with_name("clip_merges.txt.gz")
Weights = Literal["safetensors", "safetensors shards", "conversion", "pickle", "pickle shards"]
TokenizerKind = Literal["clip", "clip without tokenizer.json", "xlm-roberta", "sentencepiece", "gemma"]

CLIP_PIXELS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
HALF_PIXELS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
# The ids of CLIP's text config before transformers #24773. The end token is 49407.
OLD_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}


def old_clip_processor(size: int) -> dict[str, Any]:
    """Return the image processor config of OpenAI's repositories."""
    return {
        "crop_size": size, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", **CLIP_PIXELS, "resample": 3, "size": size,
    }  # fmt: skip


def clip_processor(size: int) -> dict[str, Any]:
    return {
        "crop_size": {"height": size, "width": size}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_processor_type": "CLIPImageProcessor",
        **CLIP_PIXELS, "resample": 3, "rescale_factor": 1 / 255, "size": {"shortest_edge": size},
    }  # fmt: skip


def siglip_processor(size: int, resample: int) -> dict[str, Any]:
    return {
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_processor_type": "SiglipImageProcessor",
        **HALF_PIXELS, "processor_class": "SiglipProcessor", "resample": resample, "rescale_factor": 1 / 255,
        "size": {"height": size, "width": size},
    }  # fmt: skip


NAFLEX_PROCESSOR = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "default_to_square": True,
    "image_processor_type": "Siglip2ImageProcessor", **HALF_PIXELS, "max_num_patches": 256, "patch_size": 16,
    "processor_class": "Siglip2Processor", "resample": 2, "rescale_factor": 1 / 255,
}  # fmt: skip


def tower(width: int, layers: int, heads: int, mlp: int, **fields: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp}
    return {**sizes, **fields}


def clip_config(
    text: dict[str, Any], vision: dict[str, Any], projection: int, *, act: str | None = None, inner: int = 512,
    ids: dict[str, int] = OLD_IDS, model_type: str = "clip", vocab_size: int = 49408,
) -> dict[str, Any]:  # fmt: skip
    shared = {"projection_dim": inner, **({"hidden_act": act} if act else {})}
    text = {"max_position_embeddings": 77, "vocab_size": vocab_size, **ids, **shared, **text}
    return {
        "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592,
        "model_type": model_type, "projection_dim": projection, "text_config": text, "text_config_dict": None,
        "vision_config": {"image_size": 224, **shared, **vision}, "vision_config_dict": None,
    }  # fmt: skip


TEXT_B, VISION_B, VISION_L = tower(512, 12, 8, 2048), tower(768, 12, 12, 3072), tower(1024, 24, 16, 4096)
SIGLIP_TEXT_B = tower(768, 12, 12, 3072, vocab_size=32000, max_position_embeddings=64)


def siglip_config(text: dict[str, Any], vision: dict[str, Any], version: str = "siglip") -> dict[str, Any]:
    text, vision = {"model_type": f"{version}_text_model", **text}, {"model_type": f"{version}_vision_model", **vision}
    return {
        "architectures": [f"{version.title()}Model"], "initializer_factor": 1.0, "model_type": version,
        "text_config": text, "vision_config": vision,
    }  # fmt: skip


@dataclass(frozen=True)
class PublicCheckpoint:
    """The layout of one repository.

    Attributes:
        weights: Where its weights are. "conversion": pytorch_model.bin, and safetensors in a pull request.
        old_buffers: Whether its weights contain `position_ids`, as before transformers 4.31.
    """

    config: dict[str, Any]
    processor: dict[str, Any]
    tokenizer: TokenizerKind
    weights: Weights = "safetensors"
    dtype: torch.dtype = torch.float32
    old_buffers: bool = False

    @property
    def size(self) -> int:
        """Native side of frames in pixels."""
        vision: dict[str, Any] = self.config["vision_config"]
        return int(vision.get("image_size", 256 if self.config["model_type"] == "siglip2" else 224))


CHECKPOINTS = {
    "openai/clip-vit-base-patch32": PublicCheckpoint(
        clip_config(TEXT_B, {**VISION_B, "patch_size": 32}, 512),
        old_clip_processor(224), "clip", "conversion", old_buffers=True,
    ),
    "openai/clip-vit-base-patch16": PublicCheckpoint(
        clip_config(TEXT_B, {**VISION_B, "patch_size": 16}, 512, act="quick_gelu"),
        old_clip_processor(224), "clip", "conversion", old_buffers=True,
    ),
    "openai/clip-vit-large-patch14": PublicCheckpoint(
        clip_config(tower(768, 12, 12, 3072), {**VISION_L, "patch_size": 14}, 768, act="quick_gelu", inner=768),
        old_clip_processor(224), "clip", old_buffers=True,
    ),
    "openai/clip-vit-large-patch14-336": PublicCheckpoint(
        clip_config(tower(768, 12, 12, 3072), {**VISION_L, "patch_size": 14, "image_size": 336}, 768, inner=768),
        old_clip_processor(336), "clip", "pickle", old_buffers=True,
    ),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": PublicCheckpoint(
        clip_config(TEXT_B, {**VISION_B, "patch_size": 32}, 512, act="gelu"),
        clip_processor(224), "clip without tokenizer.json", old_buffers=True,
    ),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": PublicCheckpoint(
        clip_config(tower(1024, 24, 16, 4096), {**tower(1280, 32, 16, 5120), "patch_size": 14}, 1024, act="gelu"),
        clip_processor(224), "clip", "safetensors shards", torch.float16,
    ),
    "facebook/metaclip-b16-fullcc2.5b": PublicCheckpoint(
        clip_config(
            TEXT_B, {**VISION_B, "patch_size": 16}, 512, act="quick_gelu",
            ids={"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1},
        ),
        clip_processor(224), "clip", "pickle shards", torch.float16,
    ),
    "facebook/metaclip-2-worldwide-huge-quickgelu": PublicCheckpoint(
        clip_config(
            tower(1024, 24, 16, 4096), {**tower(1280, 32, 16, 5120), "patch_size": 14}, 1024, act="quick_gelu",
            ids={"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}, model_type="metaclip_2", vocab_size=901629,
        ),
        clip_processor(224), "xlm-roberta",
    ),
    "google/siglip-base-patch16-224": PublicCheckpoint(
        # Its config relies on the defaults of transformers.
        siglip_config(
            {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "vocab_size": 32000},
            {"image_size": 224, "patch_size": 16},
        ),
        siglip_processor(224, 3), "sentencepiece",
    ),
    "google/siglip-so400m-patch14-384": PublicCheckpoint(
        siglip_config(
            tower(1152, 27, 16, 4304, vocab_size=32000, projection_size=1152),
            tower(1152, 27, 16, 4304, image_size=384, patch_size=14),
        ),
        siglip_processor(384, 3), "sentencepiece",
    ),
    "google/siglip2-base-patch16-224": PublicCheckpoint(
        siglip_config({**SIGLIP_TEXT_B, "vocab_size": 256000}, {"image_size": 224, "patch_size": 16}),
        siglip_processor(224, 2), "gemma",
    ),
    "google/siglip2-base-patch16-naflex": PublicCheckpoint(
        siglip_config({**SIGLIP_TEXT_B, "vocab_size": 256000}, {"num_patches": 256, "patch_size": 16}, "siglip2"),
        NAFLEX_PROCESSOR, "gemma",
    ),
}  # fmt: skip


def write_repository(name: str, folder: Path, *, full_size: bool = False) -> dict[str, bytes] | None:
    """Write a repository to a folder, as `transformers` can load it.

    Args:
        name: One of `CHECKPOINTS`.
        folder: New folder.
        full_size: Real widths and heads; real depth for widths up to 768, else two layers. Otherwise the
            heads are real, and have four channels each.

    Returns:
        The files that the pull request of the conversion service adds, if there is one.
    """
    public = CHECKPOINTS[name]
    folder.mkdir(parents=True)
    vocabulary = write_tokenizer(public.tokenizer, folder)
    config = copy.deepcopy(public.config)
    config["text_config"]["vocab_size"] = vocabulary
    resolved = AutoConfig.for_model(**config)
    for part in ("text_config", "vision_config"):
        settings = getattr(resolved, part)
        if not full_size:
            width = 4 * settings.num_attention_heads
            config[part].update(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2)
        elif settings.hidden_size > 768:
            config[part]["num_hidden_layers"] = 2
    if not full_size and "projection_dim" in config:
        config["projection_dim"] = 24
    if not full_size and config["model_type"].startswith("siglip"):  # without a projection the widths must agree
        config["text_config"]["projection_size"] = config["vision_config"]["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "preprocessor_config.json").write_text(json.dumps(public.processor, indent=2))
    (folder / "README.md").write_text("# A model")
    tensors = random_weights(config, public.dtype)
    if public.old_buffers:
        for tower_name, key in (("text_model", 77), ("vision_model", 50)):
            tensors[f"{tower_name}.embeddings.position_ids"] = torch.arange(key)[None]
    added = None
    if public.weights == "conversion":
        write_weights(tensors, folder, "safetensors")
        added = {"model.safetensors": (folder / "model.safetensors").read_bytes()}
        (folder / "model.safetensors").unlink()
    write_weights(tensors, folder, "pickle" if public.weights == "conversion" else public.weights)
    return added


def random_weights(config: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw weights with which embeddings differ between images and between texts, unlike those of a new model."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(**config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 or "bias" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.5 * parameter.shape[-1] ** -0.5)
        model.logit_scale.fill_(4.6052)
    return {name: tensor.to(dtype).clone() for name, tensor in model.state_dict().items()}


def write_weights(tensors: dict[str, Tensor], folder: Path, form: Weights) -> None:
    """Write weights as one file, or as two shards with an index."""
    stem, suffix = ("pytorch_model", "bin") if form.startswith("pickle") else ("model", "safetensors")
    is_sharded = form.endswith("shards")
    names = [f"{stem}-{n}-of-00002.{suffix}" for n in ("00001", "00002")] if is_sharded else [f"{stem}.{suffix}"]
    parts: list[dict[str, Tensor]] = [{} for _ in names]
    for number, (key, tensor) in enumerate(tensors.items()):
        parts[number % len(names)][key] = tensor
    for name, part in zip(names, parts, strict=True):
        if suffix == "bin":
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name, metadata={"format": "pt"})
    if is_sharded:
        places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        index = {"metadata": {"total_size": 0}, "weight_map": places}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


@cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return CLIP's vocabulary of 49,408 tokens, and its merges."""
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()[1:]
    merges = [(pair[0], pair[1]) for pair in (line.split() for line in lines)]
    # OpenAI's order of bytes: the printable ones first.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


@cache
def training_texts() -> tuple[str, ...]:
    concepts = ConceptSet.load("k400")
    return tuple(description.text.lower() for description in concepts.descriptions[:2000])


def write_tokenizer(kind: TokenizerKind, folder: Path) -> int:
    """Write the tokenizer files of a repository, and return the number of tokens."""
    if kind.startswith("clip"):
        vocabulary, merges = clip_vocabulary()
        CLIPTokenizer(vocabulary, merges).save_pretrained(folder)
        if kind != "clip":
            (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *map(" ".join, merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        special = {"content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False}
        fields: dict[str, Any] = {
            "unk_token": {**special, "normalized": True, "__type": "AddedToken"}, "errors": "replace",
            "bos_token": {**special, "content": "<|startoftext|>", "normalized": True, "__type": "AddedToken"},
            "eos_token": {**special, "normalized": True, "__type": "AddedToken"}, "pad_token": "<|endoftext|>",
            "add_prefix_space": False, "do_lower_case": True, "name_or_path": "./clip_ViT_B_32/",
            "model_max_length": 77, "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
        }  # fmt: skip
        size = len(vocabulary)
    elif kind == "sentencepiece":
        size = 1000
        write_sentencepiece(folder / "spiece.model", size)
        fields = {
            "clean_up_tokenization_spaces": True, "do_lower_case": True, "eos_token": "</s>",
            "model_input_names": ["input_ids"], "model_max_length": 64, "pad_token": "</s>",
            "processor_class": "SiglipProcessor", "sp_model_kwargs": {}, "tokenizer_class": "SiglipTokenizer",
            "unk_token": "<unk>",
        }  # fmt: skip
    elif kind == "gemma":
        size = write_gemma(folder / "tokenizer.json")
        fields = {
            "add_bos_token": False, "add_eos_token": True, "bos_token": "<bos>", "eos_token": "<eos>",
            "do_lower_case": True, "model_input_names": ["input_ids"], "model_max_length": 10**30,
            "pad_token": "<pad>", "padding_side": "right", "processor_class": "SiglipProcessor",
            "sp_model_kwargs": {}, "tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>",
            "use_default_system_prompt": False,
        }  # fmt: skip
    else:
        size = write_xlm_roberta(folder / "tokenizer.json")
        fields = {
            "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>",
            "model_max_length": 512, "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>",
            "tokenizer_class": "XLMRobertaTokenizer",
        }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    special_tokens = {
        name: value["content"] if isinstance(value := fields[name], dict) else value for name in names if name in fields
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens))
    return size


def write_sentencepiece(path: Path, size: int) -> None:
    import sentencepiece

    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(training_texts()), model_writer=file, vocab_size=size, pad_id=0, eos_id=1, unk_id=2,
            bos_id=-1, minloglevel=2, add_dummy_prefix=True,
        )  # fmt: skip


def write_gemma(path: Path) -> int:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(vocab_size=1000, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size()


def write_xlm_roberta(path: Path) -> int:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=1000, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(training_texts(), trainer)
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"].append(["<mask>", 0.0])
    tokens = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": len(content["model"]["vocab"]) - 1}
    flags = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [
        {"id": number, "content": token, "lstrip": token == "<mask>", **flags} for token, number in tokens.items()
    ]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size()
