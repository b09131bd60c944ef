"""Language model clients: any OpenAI-compatible endpoint, or a local `transformers` checkpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from verbspace.concepts.generation.reply_parser import InvalidReplyError

Message = dict[str, str]  # keys: role, content
RESPONSE_FORMATS = ("json_schema", "json_object", "text")  # strictest first


class LanguageModel(Protocol):
    """A chat model. Its name and generation parameters are part of the cache key of a reply."""

    name: str
    parameters: Mapping[str, Any]

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
        """Return a reply in JSON. Raise InvalidReplyError if another request may succeed, else ValueError."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class OpenAIClient:
    """A model behind an OpenAI-compatible API. The API key is read from the environment variable OPENAI_API_KEY.

    Replies are requested with a JSON schema. If the server rejects it, any JSON object is requested, then plain text.

    Args:
        model: Name of the model on the server.
        base_url: URL of the API, usually ending in `/v1`; None for OpenAI.
        temperature: Sampling temperature.
        max_tokens: Maximum length of a reply.
        timeout: Seconds without data after which a request is retried.
        max_retries: Retries of a failed request, with exponential backoff.
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
            raise ValueError("generating concepts requires openai; run: pip install 'verbspace[llm]'") from None
        key = os.environ.get("OPENAI_API_KEY")
        if not key and base_url is None:
            other = "use --base-url with a server that needs no key, or --local-model"
            raise ValueError(f"no API key: set the environment variable OPENAI_API_KEY, or {other}")
        self.name, self.base_url = model, base_url
        sampling = {"temperature": temperature, "max_tokens": max_tokens}
        self.parameters: Mapping[str, Any] = {"base_url": base_url, **sampling}
        self._client = AsyncOpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=max_retries)
        self._timeout = timeout
        self._format_index = 0
        self._max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
        self._send_temperature = True

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
        """Request one chat completion."""
        import openai

        # The client's timeout limits the wait for data, so it does not stop a server that sends one byte at a time.
        total_timeout = (self._client.max_retries + 1) * (self._timeout + 10)
        while True:
            format_index = self._format_index
            request = self._build_request(messages, schema)
            try:
                async with asyncio.timeout(total_timeout):
                    completion = await self._client.chat.completions.create(**request)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self._relax_request(str(error), request, format_index):
                    raise self._translate_error(error) from None
            except (openai.OpenAIError, TimeoutError, ValueError) as error:
                raise self._translate_error(error) from None
            else:
                return _completion_text(completion)

    def _build_request(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.name, "messages": list(messages)}
        request[self._max_tokens_key] = self.parameters["max_tokens"]
        if self._send_temperature:
            request["temperature"] = self.parameters["temperature"]
        match RESPONSE_FORMATS[self._format_index]:
            case "json_schema":
                json_schema = {"name": "words", "strict": True, "schema": dict(schema)}
                request["response_format"] = {"type": "json_schema", "json_schema": json_schema}
            case "json_object":
                request["response_format"] = {"type": "json_object"}
        return request

    def _relax_request(self, message: str, request: Mapping[str, Any], format_index: int) -> bool:
        """Drop what the server rejected in `request`. Return False if nothing is left to drop."""
        # Not by the current state, which a concurrent request may have changed in the meantime.
        if "max_completion_tokens" in message and "max_tokens" in request:
            self._max_tokens_key = "max_completion_tokens"
        elif "temperature" in message and "temperature" in request:
            self._send_temperature = False
        elif format_index + 1 < len(RESPONSE_FORMATS):
            self._format_index = max(self._format_index, format_index + 1)
        else:
            return False
        return True

    def _translate_error(self, error: Exception) -> ValueError:
        """Convert to InvalidReplyError if another request may succeed, else to ValueError."""
        import openai

        server, reason = self.base_url or "OpenAI", _shorten(error)
        match error:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return ValueError(f"{server}: rejected the API key: {reason}; check OPENAI_API_KEY")
            case openai.NotFoundError():
                fix = "check --model, and whether --base-url must end in /v1"
                return ValueError(f"{server}: model {self.name!r} or URL not found: {reason}; {fix}")
            case openai.BadRequestError() | openai.UnprocessableEntityError():
                return ValueError(f"{server}: rejected the request: {reason}")
            case openai.APITimeoutError() | TimeoutError():
                attempts = self._client.max_retries + 1
                return InvalidReplyError(f"no reply within {self._timeout:g} s in {attempts} attempts")
            case openai.APIConnectionError():
                cause = _shorten(error.__cause__ or error)
                return ValueError(f"{server}: connection failed: {cause}; check --base-url and the network")
            case openai.APIStatusError():
                return InvalidReplyError(f"the server returned status {error.status_code}: {reason}")
            case _:
                return InvalidReplyError(f"the server returned no chat completion: {reason}")

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()


class TransformersClient:
    """A local text-generation checkpoint of `transformers`: a folder or hub id with safetensors weights.

    It processes one request at a time. At temperature 0 it decodes greedily.
    """

    def __init__(self, name: str | Path, *, temperature: float = 0.7, max_tokens: int = 2000) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        unreachable = None if Path(name).is_dir() else _find_on_hub(str(name))
        local = unreachable is not None
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, local_files_only=local)
            self._model = AutoModelForCausalLM.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False, dtype="auto", local_files_only=local
            )
        except (OSError, ValueError) as error:
            if unreachable is not None:
                raise OSError(
                    f"{name}: the hub cannot be reached ({unreachable}), and its cache has no such checkpoint; check "
                    "the network, or give a folder"
                ) from None
            reason = "not a text-generation checkpoint with safetensors weights"
            raise ValueError(f"{name}: {reason}: {_shorten(error)}") from None
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device).eval()
        self.name = str(name)
        self.parameters: Mapping[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        self._lock = asyncio.Lock()

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str:
        """Generate a reply. `schema` is not used."""
        async with self._lock:
            return await asyncio.to_thread(self._generate, list(messages))

    def _generate(self, messages: list[Message]) -> str:
        import torch

        has_template = bool(self._tokenizer.chat_template)
        if has_template:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
        inputs = self._tokenizer(text, return_tensors="pt", add_special_tokens=not has_template).to(self._device)
        prompt_length = inputs["input_ids"].shape[1]
        max_new_tokens, temperature = self.parameters["max_tokens"], float(self.parameters["temperature"])
        context_length = getattr(self._model.config, "max_position_embeddings", None)
        if context_length is not None:
            if prompt_length >= context_length:
                lengths = f"the prompt has {prompt_length} tokens, the context length is {context_length}"
                raise ValueError(f"{self.name}: {lengths}; use another model")
            max_new_tokens = min(max_new_tokens, context_length - prompt_length)
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        with torch.inference_mode():
            tokens = self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id or 0,
                **sampling,
            )
        return str(self._tokenizer.decode(tokens[0, prompt_length:], skip_special_tokens=True))

    async def close(self) -> None:
        """Do nothing."""


def _find_on_hub(name: str) -> str | None:
    """Ask the hub for a checkpoint once, because `transformers` would retry each file for a minute.

    Returns the reason if the hub cannot be reached; ValueError: the hub has no such checkpoint, or the name is invalid.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=10)
    except HFValidationError:
        raise ValueError(f"{name}: no such folder, and not a hub id; write it as owner/name") from None
    except RepositoryNotFoundError:
        raise ValueError(f"{name}: no such folder, and not on the hub; check the name and your access token") from None
    except Exception as error:  # the network, a server error: the hub's client has an exception for each
        return _shorten(error).rstrip(". ")
    return None


def _completion_text(completion: Any) -> str:
    """Return the text of a chat completion, or raise InvalidReplyError if it is missing or truncated."""
    try:
        choice = completion.choices[0]
        content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    except (AttributeError, IndexError, TypeError):
        raise InvalidReplyError("the server returned no chat completion") from None
    if refusal:
        raise InvalidReplyError(f"the model refused: {_shorten(refusal)}")
    if choice.finish_reason == "length":
        raise InvalidReplyError("the reply was truncated; increase --max-tokens")
    if not isinstance(content, str) or not content.strip():
        raise InvalidReplyError("the reply is empty")
    return content


def _shorten(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:199] + "…"
