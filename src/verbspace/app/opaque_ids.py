"""Names that cannot be guessed, for what a page was shown: nothing else can be asked for."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OpaqueIds(Generic[T]):
    """Hands out keys for things, and the things for the keys. most: how many are known; the oldest are forgotten, and
    `on_forgotten` is told the key."""

    def __init__(self, max_size: int, on_evict: Callable[[str], None] = lambda key: None) -> None:
        self._secret = secrets.token_bytes(16)
        self._values: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()
        self._max_size, self._on_evict = max_size, on_evict

    def register(self, content: str, value: T) -> str:
        """The key of a thing. content: what tells it from others."""
        key = hashlib.blake2b(content.encode(errors="surrogatepass"), key=self._secret, digest_size=16).hexdigest()
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._max_size:
                self._on_evict(self._values.popitem(last=False)[0])
        return key

    def lookup(self, key: str) -> T | None:
        """The thing, or None for a key that was not handed out or is forgotten."""
        with self._lock:
            return self._values.get(key)
