"""Ids that cannot be guessed."""

from __future__ import annotations

from verbspace.app.opaque_ids import OpaqueIds


def test_register_lookup_and_eviction() -> None:
    keys: OpaqueIds[int] = OpaqueIds(2)
    one, two = keys.register("one", 1), keys.register("two", 2)
    assert keys.register("one", 1) == one != two
    assert keys.register("three\ud800", 3) not in (one, two)
    assert (keys.lookup(one), keys.lookup(two), keys.lookup("")) == (1, None, None)
    assert OpaqueIds[int](2).register("one", 1) != one  # another instance has other ids
