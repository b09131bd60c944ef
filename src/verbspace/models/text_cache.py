"""Text vectors on the disk, so that each text goes through a text tower once.

`texts/TOWER/*.safetensors` in the cache folder: a file has the vectors (N, D) of the texts that one call encoded, the
hashes of these texts (N, 16), and a checksum. TOWER is the hash of a text tower. Files appear under their final name
when they are complete, so that several processes can read and write; of two that encode the same texts, one wins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from verbspace.models.backbones import text_modules
from verbspace.models.processor import Processor
from verbspace.utils.atomic_io import atomic_write
from verbspace.utils.cache_dir import cache_dir
from verbspace.utils.cpu import available_cpus
from verbspace.utils.progress import ProgressCallback

logger = logging.getLogger(__name__)

MAX_MB_VARIABLE = "VERBSPACE_TEXT_CACHE_MB"
STAGE = "encode texts"
_DEFAULT_MAX_MB = 300
_MAX_FILES = 64  # per text tower; then they are merged into one
_BATCH_SIZES = {"cpu": 64}  # small, so that progress is shown early; as fast as large ones on a CPU
_DEFAULT_BATCH_SIZE = 256
_SILENT_SECONDS = 2.0  # progress is reported if encoding is expected to take longer
_KEY_BYTES = 16


class CachedTextEncoder:
    """Encodes texts with a text tower, and reads those that it has encoded before from the cache folder.

    The vectors of a text are those of the call that encoded it first, bit by bit. Texts are encoded in order of their
    length, because all texts of a batch are padded to the longest one.

    Args:
        encode: Maps N texts to normalized vectors (N, D), float32 on the CPU.
        tower_hash: Returns a hash of all that the vectors depend on.
        device_type: Type of the device that encodes, for the size of the batches.
        on_progress: Called with the stage "encode texts" if encoding takes seconds. None: its start is logged.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Tensor],
        tower_hash: Callable[[], str],
        device_type: str = "cpu",
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self._encode, self._tower_hash, self._on_progress = encode, tower_hash, on_progress
        self._batch_size = _BATCH_SIZES.get(device_type, _DEFAULT_BATCH_SIZE)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the normalized vectors (N, D) of N texts, float32 on the CPU."""
        store = self._store
        vectors = {} if store is None else store.read(texts)
        new = sorted((text for text in dict.fromkeys(texts) if text not in vectors), key=len)
        if new or not texts:
            encoded: dict[str, Tensor] = {}
            try:
                for batch, rows in self._encode_batches(new):
                    encoded |= dict(zip(batch, rows, strict=True))
            finally:  # also what is done before Ctrl-C
                if store is not None and encoded:
                    store.write(encoded)
            vectors |= encoded
        return torch.stack([vectors[text] for text in texts]) if texts else self._encode([])

    @cached_property
    def _store(self) -> TextVectorStore | None:
        max_bytes = _max_bytes()
        if not max_bytes:
            return None
        try:
            folder = cache_dir("texts")
        except RuntimeError as error:  # a user without a home folder
            _log_once(f"text vectors are not stored: {error}; set VERBSPACE_CACHE to a folder")
            return None
        return TextVectorStore(folder / self._tower_hash(), max_bytes)

    def _encode_batches(self, texts: Sequence[str]) -> Iterator[tuple[Sequence[str], Tensor]]:
        started, is_slow = time.monotonic(), False
        start, size = 0, max(1, self._batch_size // 8)  # a small first batch shows how long the others take
        while start < len(texts):
            batch = texts[start : start + size]
            yield batch, self._encode(batch)
            start, size = start + len(batch), self._batch_size
            seconds = (time.monotonic() - started) * len(texts) / start
            if not is_slow and start < len(texts) and seconds > _SILENT_SECONDS:
                is_slow = True
                if self._on_progress is None:
                    logger.info("encoding %s texts, about %.0f s", f"{len(texts):,}", seconds)
                else:
                    self._on_progress(STAGE, 0, len(texts), {})
            if is_slow and self._on_progress is not None:
                self._on_progress(STAGE, start, len(texts), {})


class TextVectorStore:
    """The files of one text tower.

    Args:
        folder: Their folder. The folders of other text towers are beside it.
        max_bytes: Size of the files of all text towers; the files that were not used for the longest time are removed.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the vectors (D,) of those texts that have one."""
        wanted = {_text_key(text): text for text in texts}
        found: dict[str, Tensor] = {}
        seen: set[Path] = set()
        while new := sorted(set(self.folder.glob("*.safetensors")) - seen):  # again, if meanwhile they were merged
            for path in new:
                keys, vectors = _read(path)
                rows = {wanted[key]: vectors[n] for n, key in enumerate(keys) if key in wanted}
                if rows:
                    _touch(path)
                found = rows | found
            seen.update(new)
        return found

    def write(self, vectors: Mapping[str, Tensor]) -> None:
        """Add the vectors (D,) of texts. A disk that cannot be written to is logged once."""
        try:
            path = self._write({_text_key(text): vector for text, vector in vectors.items()})
            paths = sorted(self.folder.glob("*.safetensors"))
            if len(paths) > _MAX_FILES:
                path = self._merge(paths) or path
            self._evict(keep=path)
        except OSError as error:
            _log_once(f"text vectors are not stored, and are computed again at the next call: {error}")

    def _write(self, rows: Mapping[bytes, Tensor]) -> Path:
        keys, vectors = b"".join(rows), torch.stack(list(rows.values())).contiguous()
        tensors = {"vectors": vectors, "texts": _to_tensor(keys), "checksum": _to_tensor(_checksum(keys, vectors))}
        path = self.folder / f"{hashlib.sha256(keys).hexdigest()[:16]}.safetensors"
        with atomic_write(path) as temp:
            temp.write_bytes(save(tensors))
        return path

    def _merge(self, paths: Sequence[Path]) -> Path | None:
        """Write the rows of all files to one, and remove the others. None: another process has merged them."""
        rows: dict[bytes, Tensor] = {}
        for path in paths:
            rows = dict(zip(*_read(path), strict=True)) | rows
        if not rows:
            return None
        merged = self._write(rows)
        for path in paths:
            if path != merged:
                _remove(path)
        return merged

    def _evict(self, keep: Path) -> None:
        files = []
        for path in self.folder.parent.glob("*/*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            if path != keep:
                _remove(path)
                total -= size


def text_tower_hash(base: PreTrainedModel, processor: Processor, device: torch.device) -> str:
    """Hash all that the vectors of texts depend on: 16 hexadecimal digits.

    These are the weights of the text tower with their dtype, the settings that the weights do not determine, the
    tokenizer, the type of the device, and the version of transformers. The encoders of a run and their image checkpoint
    have the same text tower.
    """
    tensors = [tensor for module in text_modules(base) for tensor in module.state_dict().values()]
    with ThreadPoolExecutor(available_cpus()) as pool:  # hashing releases the interpreter's lock
        weights = list(pool.map(_tensor_hash, tensors))
    config, tokenizer = base.config.text_config, processor.tokenizer
    names = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "eos_token_id")
    words = _fast_tokenizer_settings(tokenizer) if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    settings = {
        **{name: getattr(config, name, None) for name in names},
        "words": [words, processor.context_length, processor.is_siglip],
        "device": device.type,
        "transformers": transformers.__version__,
    }
    text = json.dumps([weights, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fast_tokenizer_settings(tokenizer: object) -> dict[str, object]:
    """Return the content of tokenizer.json without padding and truncation, which each call sets."""
    content: dict[str, object] = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    return {name: value for name, value in content.items() if name not in ("padding", "truncation")}


def _tensor_hash(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)  # NumPy has no bfloat16
    return digest.hexdigest()


def _max_bytes() -> int:
    """Return the limit of the environment variable; 0 switches the cache off."""
    text = os.environ.get(MAX_MB_VARIABLE, "").strip() or str(_DEFAULT_MAX_MB)
    if not text.isdecimal():
        raise ValueError(f"{MAX_MB_VARIABLE}={text}: not a size in MB; write a number such as 500, or 0 for no cache")
    return 1_000_000 * int(text)


def _text_key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]


def _read(path: Path) -> tuple[list[bytes], Tensor]:
    """Return the hashes of N texts in a file, and their vectors (N, D).

    A damaged file is logged and removed, so that its texts are encoded again.
    """
    try:
        tensors = load(path.read_bytes())
        keys, vectors = tensors["texts"].numpy().tobytes(), tensors["vectors"]
        if tensors["checksum"].numpy().tobytes() != _checksum(keys, vectors):
            raise ValueError("its checksum is wrong")
        return [keys[start : start + _KEY_BYTES] for start in range(0, len(keys), _KEY_BYTES)], vectors
    except FileNotFoundError:  # another process removed it
        return [], torch.empty(0)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        logger.warning("%s: damaged (%s); its texts are encoded again", path, error)
        _remove(path)
        return [], torch.empty(0)


def _checksum(keys: bytes, vectors: Tensor) -> bytes:
    return hashlib.sha256(keys + vectors.numpy().tobytes()).digest()


def _to_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _touch(path: Path) -> None:
    with suppress(OSError):  # removed, or of another user
        os.utime(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # open in another process on Windows, or of another user
        path.unlink(missing_ok=True)


@cache
def _log_once(message: str) -> None:
    logger.warning("%s", message)
