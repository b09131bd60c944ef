"""An articulated figure in the plane: joint angles in degrees to joint positions in meters.

The figure is about 1.75 m tall and faces +x. Angles are absolute unless noted: 0 points down, 90 forward (+x), 180 up.
F is the number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

TORSO, NECK, UPPER_ARM, FOREARM, THIGH, SHIN = 0.52, 0.17, 0.29, 0.27, 0.42, 0.42
SHOULDER_WIDTH, HIP_WIDTH = 0.36, 0.20


@dataclass
class Prop:
    """An object: a capsule between two points."""

    kind: str  # "ball", "box", "bat", "cup" or "chair"
    a: Array  # first end point in meters, shape (F, 2) or (1, 2)
    b: Array  # second end point
    radius: float  # in meters
    hand: int | None = None  # if set, the points are offsets from hand 0, hand 1, or the middle of both hands (2)
    visibility: Array | None = None  # 0 or 1 for each frame, shape (F,); None: always visible


@dataclass
class Pose:
    """Joint angles of a clip in degrees. Limbs have shape (2, F): the far or left one, and the near or right one."""

    arm: Array  # upper arms
    elbow: Array  # forearms relative to the upper arms; positive bends forward
    thigh: Array
    knee: Array  # shins relative to the thighs; positive bends backward
    lean: Array  # torso from the vertical, positive forward, shape (F,)
    nod: Array  # head relative to the torso, positive forward, shape (F,)
    lift: Array  # height of the lower foot above the ground, in meters, shape (F,)
    x: Array  # position of the pelvis along the ground, in meters, shape (F,)
    front: float = 0.2  # 1 for a figure that faces the camera, about 0.2 for a side view
    props: list[Prop] = field(default_factory=list)


def _limb_end(start: Array, length: float, degrees: Array) -> Array:
    angle = np.deg2rad(degrees)
    return (start + length * np.stack([np.sin(angle), -np.cos(angle)], -1)).astype(np.float32)


def compute_joints(pose: Pose) -> dict[str, Array]:
    """Compute the positions of the joints by name, in meters, shape (F, 2). y points up; the ground is at y = 0."""
    zero = np.zeros_like(pose.x)
    lean = np.deg2rad(pose.lean)
    up = np.stack([np.sin(lean), np.cos(lean)], -1).astype(np.float32)
    across = np.stack([np.cos(lean), -np.sin(lean)], -1).astype(np.float32)
    pelvis = np.stack([pose.x, zero], -1)
    neck = pelvis + TORSO * up
    nod = np.deg2rad(pose.lean + pose.nod)
    head = neck + NECK * np.stack([np.sin(nod), np.cos(nod)], -1).astype(np.float32)
    out = {"pelvis": pelvis, "neck": neck, "head": head}
    for side, sign in enumerate((-0.5, 0.5)):
        hip = pelvis + np.array([sign * HIP_WIDTH * pose.front, 0], np.float32)
        shoulder = neck - 0.05 * up + sign * SHOULDER_WIDTH * pose.front * across
        out[f"hip{side}"], out[f"shoulder{side}"] = hip, shoulder
        out[f"knee{side}"] = _limb_end(hip, THIGH, pose.thigh[side])
        out[f"foot{side}"] = _limb_end(out[f"knee{side}"], SHIN, pose.thigh[side] - pose.knee[side])
        out[f"elbow{side}"] = _limb_end(shoulder, UPPER_ARM, pose.arm[side])
        out[f"hand{side}"] = _limb_end(out[f"elbow{side}"], FOREARM, pose.arm[side] + pose.elbow[side])
    lowest = np.minimum(out["foot0"][:, 1], out["foot1"][:, 1])
    rise = np.stack([zero, pose.lift - lowest], -1)
    return {name: (position + rise).astype(np.float32) for name, position in out.items()}


def prop_endpoints(prop: Prop, joint_positions: dict[str, Array]) -> tuple[Array, Array]:
    """Compute the two end points of a prop in meters, shape (F, 2) each."""
    if prop.hand is None:
        return prop.a, prop.b
    hands = joint_positions["hand0"], joint_positions["hand1"]
    base = (hands[0] + hands[1]) / 2 if prop.hand == 2 else hands[prop.hand]
    return (base + prop.a).astype(np.float32), (base + prop.b).astype(np.float32)
