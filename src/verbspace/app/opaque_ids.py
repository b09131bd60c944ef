"""Ids that cannot be guessed, for what the page has shown. Nothing else can be requested."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class OpaqueIds(Generic[T]):
    """Maps random-looking ids to at most `max_size` values. The least recently registered values are dropped."""

    def __init__(self, max_size: int) -> None:
        self._secret = secrets.token_bytes(16)
        self._values: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()
        self._max_size = max_size

    def register(self, content: str, value: T) -> str:
        """Store a value and return its id. Values with the same `content` have the same id."""
        key = hashlib.blake2b(content.encode(errors="surrogatepass"), key=self._secret, digest_size=16).hexdigest()
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._max_size:
                self._values.popitem(last=False)
        return key

    def lookup(self, key: str) -> T | None:
        """Return the value of an id, or None if the id is not known."""
        with self._lock:
            return self._values.get(key)
