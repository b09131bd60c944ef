"""Names that cannot be guessed, for what a page was shown: nothing else can be asked for."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Keys(Generic[T]):
    """Hands out keys for things, and the things for the keys. most: how many are known; the oldest are forgotten, and
    `on_forgotten` is told the key."""

    def __init__(self, most: int, on_forgotten: Callable[[str], None] = lambda key: None) -> None:
        self._secret = secrets.token_bytes(16)
        self._known: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()
        self._most, self._on_forgotten = most, on_forgotten

    def give(self, content: str, thing: T) -> str:
        """The key of a thing. content: what tells it from others."""
        key = hashlib.blake2b(content.encode(errors="surrogatepass"), key=self._secret, digest_size=16).hexdigest()
        with self._lock:
            self._known[key] = thing
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._on_forgotten(self._known.popitem(last=False)[0])
        return key

    def get(self, key: str) -> T | None:
        """The thing, or None for a key that was not handed out or is forgotten."""
        with self._lock:
            return self._known.get(key)
