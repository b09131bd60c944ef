"""A tiny language model with random weights in llama.cpp's format, and llama.cpp's OpenAI-compatible server.

Its replies are random words. With a JSON schema they are random words in valid JSON.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

VOCABULARY = re.findall(
    r"\w+",
    """arm leg hand knee elbow shoulder hip wrist foot head back chest finger ball bat rope net bar bow wheel blade
    brush bottle box chair table wall floor grass water snow sand ring mat helmet glove shirt swings lifts bends
    turns drops pulls pushes rolls slides spins taps kicks grips leans jumps falls rises reaches crosses strikes
    circles sweeps slowly quickly sideways upward downward forward twice again while above below behind beside
    between toward against around red blue white narrow wide heavy light small large wooden metal plastic wet
    bright dark open closed bent straight raised lowered left right both one two three first then and with from
    into over under near its their""",
)


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def write_tiny_llm(path: Path, seed: int = 0, width: int = 64) -> Path:
    """Write a llama of one layer, with a vocabulary of bytes and about 200 words."""
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    rng = np.random.default_rng(seed)
    specials = ["<unk>", "<s>", "</s>"]
    words = [form for word in VOCABULARY for form in ("Ġ" + word, word.capitalize())]
    alphabet = [letter for _, letter in sorted(bytes_to_unicode().items())]
    tokens = [*specials, *alphabet, *words]
    kinds = [gguf.TokenType.CONTROL] * len(specials) + [gguf.TokenType.NORMAL] * (len(tokens) - len(specials))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32768)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 2)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h", "a n"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    shapes = {"attn_q": width, "attn_k": width, "attn_v": width, "attn_output": width}
    shapes |= {"ffn_gate": width, "ffn_up": width, "ffn_down": width}
    for name, size in shapes.items():
        writer.add_tensor(f"blk.0.{name}.weight", rng.normal(0, 0.1, (size, width)).astype(np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.1, (len(tokens), width)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def llama_cpp_server(model: Path) -> Iterator[str]:
    """Run llama.cpp's server on a free local port and yield its base URL."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 32768
    params.n_parallel = 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = False  # grammars apply only with the built-in templates
    params.verbosity = -1
    server = xllamacpp.Server(params)
    try:
        yield server.listening_address + "/v1"
    finally:
        del server
