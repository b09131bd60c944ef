"""Generation with a tiny local `transformers` checkpoint that is overfitted to its reply."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from support.language_models import reply_about
from verbspace.concepts.concept_set import DESCRIPTION_KINDS
from verbspace.concepts.generation.llm_clients import TransformersClient
from verbspace.concepts.generation.reply_parser import sentence_counts
from verbspace.concepts.generation.writer import SYSTEM_PROMPT, generate_concepts


def prompt_for(actions: list[str]) -> str:
    """Return the prompt about the first action, for a checkpoint without a chat template."""
    system = SYSTEM_PROMPT.format(actions=json.dumps(actions), **sentence_counts(2))
    return f"{system}\n\nThe action: {json.dumps(actions[0])}\n\n"


def make_checkpoint(folder: Path, prompt: str, reply: str, steps: int, **config: Any) -> Path:
    """Save a small llama that was trained for `steps` steps to answer `prompt` with `reply`."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([prompt, reply], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": 0, "bos_token_id": None, "max_position_embeddings": 2048}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **{**sizes, **ends, **config}))
    prompt_ids = fast(prompt)["input_ids"]
    ids = torch.tensor([prompt_ids + fast(reply)["input_ids"] + [0]])
    labels = ids.clone()
    labels[:, : len(prompt_ids)] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_generation_with_a_local_model(tmp_path: Path) -> None:
    reply = reply_about("waving")
    folder = make_checkpoint(tmp_path / "llm", prompt_for(["waving", "bowing"]), reply, 80)
    model = TransformersClient(folder, temperature=0.0, max_tokens=600)
    result = generate_concepts(["waving", "bowing"], model, name="mine", cache=tmp_path / "cache", max_attempts=1)
    assert result.concepts is not None
    sentences = {text for kind in DESCRIPTION_KINDS for text in json.loads(reply)[kind]}
    assert {d.text for d in result.concepts.descriptions if d.actions == ("waving",)} == sentences
    assert result.concepts.provenance.author == str(folder)


def test_an_untrained_model_fails_with_the_action_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llm", prompt_for(["waving"]), reply_about("waving"), 0)
    model = TransformersClient(folder, max_tokens=100)
    result = generate_concepts(["waving"], model, name="mine", cache=tmp_path / "cache", max_attempts=2)
    assert result.concepts is None
    assert list(result.failures) == ["waving"]
    assert result.num_requests == 2


def test_a_prompt_longer_than_the_context_is_an_error(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llm", "short", "short", 0, max_position_embeddings=64)
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens, the context length is 64"):
        generate_concepts(["waving"], TransformersClient(folder), name="mine", cache=tmp_path / "cache")


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a text-generation checkpoint with safetensors weights"):
        TransformersClient(tmp_path)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llm", "short", "short", 0)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="not a text-generation checkpoint with safetensors weights"):
        TransformersClient(folder)
