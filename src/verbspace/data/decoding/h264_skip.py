"""Skipping H.264 packets that the requested frames do not need.

The header of each NAL unit states whether other pictures are predicted from it (nal_ref_idc, ITU-T H.264, 7.4.1). A
picture that is neither requested nor a reference can be skipped: the other frames stay bit-identical.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_SLICE_NAL_TYPES = range(1, 6)  # NAL unit types that hold slices of a picture
_REFERENCE_NAL_HEADER = 0x65  # a slice that other pictures are predicted from


def required_packets(
    context: Any, packets: Sequence[Any], pts: Sequence[int], frame_indices: set[int]
) -> tuple[list[int], list[Any]]:
    """Return the packets that a decoder needs for the given frames.

    Args:
        context: PyAV's codec context of the stream.
        packets: All packets of the stream in decoding order, each with one frame.
        pts: Presentation times of all frames, ascending.
        frame_indices: Requested frames, in display order.

    Returns:
        The indices of the frames that decoding gives, and the packets to decode.
    """
    index_of = {value: index for index, value in enumerate(pts)}
    length_size = _nal_length_size(context)
    required: list[Any] = []
    skipped: set[int] = set()
    for packet in packets:
        if (
            length_size
            and packet.size
            and index_of[packet.pts] not in frame_indices
            and is_non_reference(memoryview(packet), length_size)
        ):
            skipped.add(index_of[packet.pts])
        else:
            required.append(packet)
    return [index for index in range(len(pts)) if index not in skipped], required


def _nal_length_size(context: Any) -> int:
    """Bytes of the length before each NAL unit in MP4 and Matroska (ISO 14496-15, 5.3.3.1); 0 for other streams."""
    extra = context.extradata
    if context.codec.name != "h264" or not extra or len(extra) < 7 or extra[0] != 1:
        return 0
    return int(extra[4] & 3) + 1


def is_non_reference(packet: Sequence[int], length_size: int) -> bool:
    """Return whether no other picture is predicted from an H.264 packet. False if the bytes cannot be parsed."""
    slices = [header for header in _nal_headers(packet, length_size) if header & 31 in _SLICE_NAL_TYPES]
    return bool(slices) and not any(header >> 5 & 3 for header in slices)


def _nal_headers(packet: Sequence[int], length_size: int) -> Iterator[int]:
    """First byte of each NAL unit; the header of a reference slice if the lengths are inconsistent."""
    offset, end = 0, len(packet)
    while offset < end:
        length = 0
        for byte in packet[offset : offset + length_size]:
            length = length << 8 | byte
        if offset + length_size >= end or not length or offset + length_size + length > end:
            yield _REFERENCE_NAL_HEADER
            return
        yield packet[offset + length_size]
        offset += length_size + length
