"""Which packets a decoder need not see.

H.264 says in each picture's header whether others are predicted from it (nal_ref_idc, ITU-T H.264, 7.4.1). One that no
other needs, and that nobody asked for, can be left out: what is shown of the rest stays the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_SLICES = range(1, 6)  # NAL unit types that hold parts of a picture


def necessary(
    context: Any, packets: Sequence[Any], stamps: Sequence[int], wanted: set[int]
) -> tuple[list[int], list[Any]]:
    """The frames that a decode shows when it is only given the packets that the wanted frames need, and these packets.

    context: the stream's codec context. packets: all of the stream's, in decoding order, each showing one frame.
    stamps: their presentation stamps, ascending. wanted: numbers of frames, in the order in which they show.
    """
    number = {stamp: place for place, stamp in enumerate(stamps)}
    prefix = _length_size(context)
    kept: list[Any] = []
    left_out: set[int] = set()
    for packet in packets:
        if prefix and packet.size and number[packet.pts] not in wanted and disposable(memoryview(packet), prefix):
            left_out.add(number[packet.pts])
        else:
            kept.append(packet)
    return [place for place in range(len(stamps)) if place not in left_out], kept


def _length_size(context: Any) -> int:
    """Bytes of the length before each NAL unit in MP4 and Matroska (ISO 14496-15, 5.3.3.1); 0 for other streams."""
    extra = context.extradata
    if context.codec.name != "h264" or not extra or len(extra) < 7 or extra[0] != 1:
        return 0
    return int(extra[4] & 3) + 1


def disposable(packet: Sequence[int], prefix: int) -> bool:
    """Whether a packet holds a picture that no other is predicted from. What cannot be read is not."""
    pictures = [header for header in _nal_headers(packet, prefix) if header & 31 in _SLICES]
    return bool(pictures) and not any(header >> 5 & 3 for header in pictures)


def _nal_headers(packet: Sequence[int], prefix: int) -> Iterator[int]:
    """The first byte of each NAL unit; one that marks a reference where the lengths do not fit together."""
    at, end = 0, len(packet)
    while at < end:
        length = 0
        for byte in packet[at : at + prefix]:
            length = length << 8 | byte
        if at + prefix >= end or not length or at + prefix + length > end:
            yield 0x65
            return
        yield packet[at + prefix]
        at += prefix + length
