"""Skipping H.264 packets that the requested frames do not need: no other picture is predicted from them.

The header of each NAL unit says so (nal_ref_idc, ITU-T H.264, 7.4.1). The other frames stay bit-identical.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SLICE_NAL_TYPES = range(1, 6)  # NAL unit types that hold slices of a picture


def required_packets(
    context: Any, packets: Sequence[Any], pts: Sequence[int], frame_indices: set[int]
) -> tuple[list[int], list[Any]]:
    """Return the indices of the frames that decoding gives, and the packets to decode, for the requested frames.

    `packets` are all packets of the stream in decoding order, each with one frame, and `pts` the ascending presentation
    times of all frames.
    """
    length_size = _nal_length_size(context)
    needed_pts = {pts[index] for index in frame_indices}
    optional = [packet for packet in packets if length_size and packet.size and packet.pts not in needed_pts]
    skipped = {packet.pts for packet in optional if is_non_reference(memoryview(packet), length_size)}
    required = [packet for packet in packets if not packet.size or packet.pts not in skipped]
    return [index for index, time in enumerate(pts) if time not in skipped], required


def _nal_length_size(context: Any) -> int:
    """Bytes of the length before each NAL unit in MP4 and Matroska (ISO 14496-15, 5.3.3.1); 0 for other streams."""
    extra = context.extradata
    if context.codec.name != "h264" or not extra or len(extra) < 7 or extra[0] != 1:
        return 0
    return int(extra[4] & 3) + 1


def is_non_reference(packet: Sequence[int], length_size: int) -> bool:
    """Return whether no other picture is predicted from an H.264 packet. False if the bytes cannot be parsed."""
    has_slice, offset = False, 0
    while offset < len(packet):
        start = offset + length_size
        length = int.from_bytes(packet[offset:start])
        if not length or start + length > len(packet):
            return False
        header = packet[start]  # the first byte of the NAL unit
        if header & 31 in _SLICE_NAL_TYPES:
            if header >> 5 & 3:
                return False
            has_slice = True
        offset = start + length
    return has_slice
