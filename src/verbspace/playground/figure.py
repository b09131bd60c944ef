"""An articulated figure in the plane: joint angles in degrees to joint positions in metres.

The figure is about 1.75 m tall and faces +x. Angles are absolute unless they say otherwise: 0 hangs straight down,
90 points forward (+x), 180 points up. Every value is an array over the frames of a clip, shape (F,).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

TORSO, NECK, UPPER_ARM, FOREARM, THIGH, SHIN = 0.52, 0.17, 0.29, 0.27, 0.42, 0.42
SHOULDER_WIDTH, HIP_WIDTH = 0.36, 0.20


@dataclass
class Pose:
    """Joint angles of a clip, each (F,): two arms and two legs, [0] the far or left one, [1] the near or right one.

    `front` is 1 where the figure faces the camera (shoulders seen at full width) and about 0.2 from the side.
    `lift` raises the lowest foot above the ground, in metres; `x` moves the pelvis along the ground.
    """

    arm: list[Array]
    elbow: list[Array]  # added to the arm's angle; positive bends the forearm forward
    thigh: list[Array]
    knee: list[Array]  # taken from the thigh's angle; positive bends the shin backward
    lean: Array  # torso from the vertical, positive forward
    nod: Array
    lift: Array
    x: Array
    front: float = 0.2
    seat: Array | None = None  # height of the pelvis where something other than the feet carries it
    props: list[Prop] = field(default_factory=list)


@dataclass
class Prop:
    """Something held or standing by: a shape between two points, each (F, 2) in metres, of radius `radius`.

    `hand` ties both points to a hand (0 or 1) or to the middle of both hands (2): they are then offsets from it.
    """

    kind: str
    a: Array
    b: Array
    radius: float
    hand: int | None = None
    visibility: Array | None = None  # (F,) of 0 and 1


def _limb_end(start: Array, length: float, degrees: Array) -> Array:
    angle = np.deg2rad(degrees)
    return (start + length * np.stack([np.sin(angle), -np.cos(angle)], -1)).astype(np.float32)


def joints(pose: Pose) -> dict[str, Array]:
    """Place the joints. Returns name -> (F, 2) positions in metres, y up, the ground at y = 0."""
    zero = np.zeros_like(pose.x)
    lean = np.deg2rad(pose.lean)
    up = np.stack([np.sin(lean), np.cos(lean)], -1).astype(np.float32)
    across = np.stack([np.cos(lean), -np.sin(lean)], -1).astype(np.float32)
    pelvis = np.stack([pose.x, zero], -1)
    neck = pelvis + TORSO * up
    nod = np.deg2rad(pose.lean + pose.nod)
    out = {
        "pelvis": pelvis,
        "neck": neck,
        "head": neck + NECK * np.stack([np.sin(nod), np.cos(nod)], -1).astype(np.float32),
    }
    for side, sign in enumerate((-0.5, 0.5)):
        hip = pelvis + np.array([sign * HIP_WIDTH * pose.front, 0], np.float32)
        shoulder = neck - 0.05 * up + sign * SHOULDER_WIDTH * pose.front * across
        out[f"hip{side}"], out[f"shoulder{side}"] = hip, shoulder
        out[f"knee{side}"] = _limb_end(hip, THIGH, pose.thigh[side])
        out[f"foot{side}"] = _limb_end(out[f"knee{side}"], SHIN, pose.thigh[side] - pose.knee[side])
        out[f"elbow{side}"] = _limb_end(shoulder, UPPER_ARM, pose.arm[side])
        out[f"hand{side}"] = _limb_end(out[f"elbow{side}"], FOREARM, pose.arm[side] + pose.elbow[side])
    lowest = np.minimum(out["foot0"][:, 1], out["foot1"][:, 1])
    height = -lowest + pose.lift if pose.seat is None else np.maximum(pose.seat, -lowest)
    rise = np.stack([zero, height], -1)
    return {name: (place + rise).astype(np.float32) for name, place in out.items()}


def prop_endpoints(prop: Prop, joint_positions: dict[str, Array]) -> tuple[Array, Array]:
    """The two end points of a prop, (F, 2) each, once the figure's hands are known."""
    if prop.hand is None:
        return prop.a, prop.b
    base = (
        (joint_positions["hand0"] + joint_positions["hand1"]) / 2
        if prop.hand == 2
        else joint_positions[f"hand{prop.hand}"]
    )
    return (base + prop.a).astype(np.float32), (base + prop.b).astype(np.float32)
