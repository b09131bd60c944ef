"""A `transformers` text-generation checkpoint as the writer: tiny, and taught its answer by rote."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from support.language_models import reply_about
from verbspace.concepts.generation.llm_clients import TransformersClient
from verbspace.concepts.generation.reply_parser import MIN_PER_KIND
from verbspace.concepts.generation.writer import SYSTEM_PROMPT, generate_concepts


def question(actions: list[str]) -> str:
    """What a checkpoint without a chat template reads."""
    counts = {kind: max(least, 2) for kind, least in MIN_PER_KIND.items()}
    return f"{SYSTEM_PROMPT.format(actions=json.dumps(actions), **counts)}\n\nThe action: {json.dumps(actions[0])}\n\n"


def make_checkpoint(folder: Path, prompt: str, answer: str, steps: int, **config: Any) -> Path:
    """A small llama in the real format, after `steps` of learning to give `answer` to `prompt`."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([prompt, answer], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": 0, "bos_token_id": None, "max_position_embeddings": 2048}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **{**sizes, **ends, **config}))
    before = fast(prompt)["input_ids"]
    ids = torch.tensor([before + fast(answer)["input_ids"] + [0]])
    labels = ids.clone()
    labels[:, : len(before)] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_a_local_model_writes_through_the_same_path(tmp_path: Path) -> None:
    answer = reply_about("waving")
    folder = make_checkpoint(tmp_path / "llm", question(["waving", "bowing"]), answer, 80)
    model = TransformersClient(folder, temperature=0.0, max_tokens=600, device="cpu")
    found = generate_concepts(["waving", "bowing"], model, name="mine", cache=tmp_path / "cache", max_attempts=1)
    assert found.concepts is not None
    told = {text for kind in MIN_PER_KIND for text in json.loads(answer)[kind]}
    assert {d.text for d in found.concepts.descriptions if d.actions == ("waving",)} == told
    assert found.concepts.provenance.author == str(folder)


def test_a_model_that_babbles_fails_by_name(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llm", question(["waving"]), reply_about("waving"), 0)
    model = TransformersClient(folder, max_tokens=100, device="cpu")
    found = generate_concepts(["waving"], model, name="mine", cache=tmp_path / "cache", max_attempts=2)
    assert found.concepts is None
    assert list(found.failures) == ["waving"]
    assert found.num_requests == 2


def test_a_question_longer_than_the_model_reads_is_one_sentence(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llm", "short", "short", 0, max_position_embeddings=64)
    with pytest.raises(ValueError, match="reads 64 tokens, and the question has"):
        generate_concepts(["waving"], TransformersClient(folder, device="cpu"), name="mine", cache=tmp_path / "cache")


def test_what_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a text-generation checkpoint in safetensors"):
        TransformersClient(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llm", "short", "short", 0)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is not a text-generation checkpoint in safetensors"):
        TransformersClient(folder)
