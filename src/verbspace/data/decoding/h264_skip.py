"""Which packets a decoder need not see.

H.264 says in each picture's header whether others are predicted from it (nal_ref_idc, ITU-T H.264, 7.4.1). One that no
other needs, and that nobody asked for, can be left out: what is shown of the rest stays the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_SLICE_NAL_TYPES = range(1, 6)  # NAL unit types that hold parts of a picture


def required_packets(
    context: Any, packets: Sequence[Any], pts: Sequence[int], frame_indices: set[int]
) -> tuple[list[int], list[Any]]:
    """The frames that a decode shows when it is only given the packets that the wanted frames need, and these packets.

    context: the stream's codec context. packets: all of the stream's, in decoding order, each showing one frame.
    stamps: their presentation stamps, ascending. wanted: numbers of frames, in the order in which they show.
    """
    number = {stamp: place for place, stamp in enumerate(pts)}
    prefix = _length_size(context)
    kept: list[Any] = []
    left_out: set[int] = set()
    for packet in packets:
        if (
            prefix
            and packet.size
            and number[packet.pts] not in frame_indices
            and is_non_reference(memoryview(packet), prefix)
        ):
            left_out.add(number[packet.pts])
        else:
            kept.append(packet)
    return [place for place in range(len(pts)) if place not in left_out], kept


def _length_size(context: Any) -> int:
    """Bytes of the length before each NAL unit in MP4 and Matroska (ISO 14496-15, 5.3.3.1); 0 for other streams."""
    extra = context.extradata
    if context.codec.name != "h264" or not extra or len(extra) < 7 or extra[0] != 1:
        return 0
    return int(extra[4] & 3) + 1


def is_non_reference(packet: Sequence[int], length_size: int) -> bool:
    """Whether a packet holds a picture that no other is predicted from. What cannot be read is not."""
    pictures = [header for header in _nal_headers(packet, length_size) if header & 31 in _SLICE_NAL_TYPES]
    return bool(pictures) and not any(header >> 5 & 3 for header in pictures)


def _nal_headers(packet: Sequence[int], length_size: int) -> Iterator[int]:
    """The first byte of each NAL unit; one that marks a reference where the lengths do not fit together."""
    at, end = 0, len(packet)
    while at < end:
        length = 0
        for byte in packet[at : at + length_size]:
            length = length << 8 | byte
        if at + length_size >= end or not length or at + length_size + length > end:
            yield 0x65
            return
        yield packet[at + length_size]
        at += length_size + length
