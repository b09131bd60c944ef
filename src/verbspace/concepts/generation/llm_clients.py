"""Language models that write: any OpenAI-compatible endpoint, or a local `transformers` checkpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from verbspace.concepts.generation.reply_parser import InvalidReplyError

Message = dict[str, str]  # role, content
RESPONSE_FORMATS = ("json_schema", "json_object", "text")  # how the form of a reply is asked for, strictest first


class LanguageModel(Protocol):
    """What writes. `name` and `parameters` are all that its answers depend on, besides the messages."""

    name: str
    parameters: Mapping[str, Any]

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
        """A reply in JSON. Raises BadReply where this reply failed, and ValueError where every one would."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class OpenAIClient:
    """A model behind an OpenAI-compatible API: OpenAI, vLLM, llama.cpp, Ollama, `transformers serve` and others.

    model: its name there. base_url: where, with the `/v1`; OpenAI's own if None. The key is taken from the environment
    variable OPENAI_API_KEY. retries: of a request that failed or ran into `timeout` (seconds), with growing pauses.
    The reply's form is asked for by JSON schema; from a server that rejects it, as any JSON object, and at last in
    words only.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        temperature: float = 0.7,
        max_tokens: int = 2000,
        timeout: float = 120.0,
        max_retries: int = 4,
    ) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise ValueError("writing concepts needs the openai package; pip install 'verbspace[llm]'") from None
        key = os.environ.get("OPENAI_API_KEY")
        if not key and base_url is None:
            raise ValueError(
                "there is no key: set the environment variable OPENAI_API_KEY, "
                "or give --base-url of a server that needs none, or --local-model"
            )
        self.name, self.base_url = model, base_url
        self.parameters: Mapping[str, Any] = {
            "base_url": base_url,
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        self._client = AsyncOpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=max_retries)
        self._timeout = timeout
        self._format_index = 0
        self._max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
        self._send_temperature = True

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
        """One chat completion."""
        import openai

        where, tries = self.base_url or "OpenAI", self._client.max_retries + 1
        while True:
            form = self._format_index
            request = self._build_request(messages, schema)
            try:
                # The client's own time-out is that of a silence; a server that trickles is ended by this one.
                async with asyncio.timeout(tries * (self._timeout + 10)):
                    reply = await self._client.chat.completions.create(**request)
                return _completion_text(reply)
            except openai.BadRequestError as error:
                if not self._relax_request(str(error), form):
                    raise ValueError(f"{where} refuses the request: {_shorten(error)}") from None
            except openai.UnprocessableEntityError as error:
                if not self._relax_request(str(error), form):
                    raise ValueError(f"{where} refuses the request: {_shorten(error)}") from None
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise ValueError(f"{where} refuses the key: {_shorten(error)}; check OPENAI_API_KEY") from None
            except openai.NotFoundError as error:
                raise ValueError(
                    f"{where} does not know the model {self.name!r} or the path: {_shorten(error)}; "
                    "check --model, and that --base-url ends as the server says (often /v1)"
                ) from None
            except (openai.APITimeoutError, TimeoutError):
                raise InvalidReplyError(
                    f"no reply within {self._timeout:g} s, tried {self._client.max_retries + 1} times"
                ) from None
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                raise ValueError(
                    f"{where} cannot be reached: {_shorten(cause)}; check --base-url and the network"
                ) from None
            except openai.APIStatusError as error:
                raise InvalidReplyError(f"the server failed with {error.status_code}: {_shorten(error)}") from None
            except (openai.APIError, ValueError) as error:  # a body that is no completion
                if isinstance(error, InvalidReplyError):
                    raise
                raise InvalidReplyError(f"the server sent no chat completion: {_shorten(error)}") from None

    def _build_request(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.name, "messages": list(messages)}
        request[self._max_tokens_key] = self.parameters["max_tokens"]
        if self._send_temperature:
            request["temperature"] = self.parameters["temperature"]
        match RESPONSE_FORMATS[self._format_index]:
            case "json_schema":
                named = {"name": "words", "strict": True, "schema": dict(schema)}
                request["response_format"] = {"type": "json_schema", "json_schema": named}
            case "json_object":
                request["response_format"] = {"type": "json_object"}
        return request

    def _relax_request(self, message: str, format_index: int) -> bool:
        """Ask for less after a refusal. False where there is nothing left to leave out."""
        if "max_completion_tokens" in message and self._max_tokens_key == "max_tokens":
            self._max_tokens_key = "max_completion_tokens"
        elif "temperature" in message and self._send_temperature:
            self._send_temperature = False
        elif self._format_index + 1 < len(RESPONSE_FORMATS):
            self._format_index = max(self._format_index, format_index + 1)
        else:
            return False
        return True

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


class TransformersClient:
    """A text-generation checkpoint of `transformers`, a folder or hub id, in safetensors; one action at a time."""

    def __init__(
        self, name: str | Path, *, temperature: float = 0.7, max_tokens: int = 2000, device: str | None = None
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name)
            self._model = AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, dtype="auto")
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: is not a text-generation checkpoint in safetensors: {_shorten(error)}") from None
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model.to(self._device).eval()
        self.name = str(name)
        self.parameters: Mapping[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        self._lock = asyncio.Lock()

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
        """Generate; the lock keeps one generation at a time."""
        async with self._lock:
            return await asyncio.to_thread(self._generate, list(messages))

    def _generate(self, messages: list[Message]) -> str:
        import torch

        if self._tokenizer.chat_template:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
        inputs = self._tokenizer(text, return_tensors="pt", add_special_tokens=not self._tokenizer.chat_template)
        size = inputs["input_ids"].shape[1]
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and size >= longest:
            raise ValueError(f"{self.name}: reads {longest} tokens, and the question has {size}; take another model")
        warmth = float(self.parameters["temperature"])
        how: dict[str, Any] = {"do_sample": True, "temperature": warmth} if warmth > 0 else {"do_sample": False}
        limit = self.parameters["max_tokens"]
        if longest is not None:
            limit = min(limit, longest - size)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=inputs["input_ids"].to(self._device),
                attention_mask=inputs["attention_mask"].to(self._device),
                max_new_tokens=limit,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0,
                **how,
            )
        return str(self._tokenizer.decode(out[0, size:], skip_special_tokens=True))

    async def close(self) -> None:
        """Nothing to let go of."""


def _completion_text(reply: Any) -> str:
    """The text of a chat completion. Raises BadReply where there is none, or where it was cut off."""
    try:
        choice = reply.choices[0]
        content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    except (AttributeError, IndexError, TypeError):
        raise InvalidReplyError("the server sent no chat completion") from None
    if refusal:
        raise InvalidReplyError(f"the model refused: {str(refusal)[:200]}")
    if choice.finish_reason == "length":
        raise InvalidReplyError("the reply was cut off at its longest; raise --max-tokens")
    if not isinstance(content, str) or not content.strip():
        raise InvalidReplyError("the reply is empty")
    return content


def _shorten(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
