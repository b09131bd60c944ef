"""The twenty actions of the playground, as functions from timestamps and a personal style to poses.

Some actions differ only in the order of their frames: sitting down and standing up, lifting a box and putting down a
box. Others share many frames: walking and running, waving and raising a hand, throwing and catching a ball.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verbspace.playground.figure import Array, Pose, Prop

ACTIONS: tuple[str, ...] = (
    "waving", "clapping", "doing jumping jacks", "squatting", "sitting down", "standing up", "walking", "running",
    "jumping", "kicking a ball", "throwing a ball", "catching a ball", "lifting a box", "putting down a box",
    "punching", "swinging a bat", "raising a hand", "bowing", "dribbling a ball", "drinking from a cup",
)  # fmt: skip
HELD_OUT_ACTIONS: tuple[str, ...] = ("clapping", "doing jumping jacks", "swinging a bat", "drinking from a cup")
TRAIN_ACTIONS: tuple[str, ...] = tuple(name for name in ACTIONS if name not in HELD_OUT_ACTIONS)


@dataclass(frozen=True)
class Style:
    """How a person performs an action.

    Attributes:
        tempo: Factor on the speed.
        reach: Factor on the amplitude.
        phase: Offset within the cycle, 0 to 1.
        sway: Additional lean and nod, in degrees.
    """

    tempo: float
    reach: float
    phase: float
    sway: float

    @staticmethod
    def sample(rng: np.random.Generator) -> Style:
        """Sample the style of a random person."""
        return Style(rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.1), rng.uniform(), rng.uniform(-4, 4))


def _pose(t: Array, style: Style, front: float = 0.2) -> Pose:
    """Return the pose of a person who stands still."""

    def full(value: float) -> Array:
        return np.full_like(t, value)

    breath = (1.5 * np.sin(2 * np.pi * (0.3 * t + style.phase))).astype(np.float32)
    spread = 8.0 if front > 0.5 else 4.0
    return Pose(
        arm=[full(-spread) + breath, full(spread) - breath],
        elbow=[full(4), full(4)],
        thigh=[full(-spread / 2), full(spread / 2)],
        knee=[full(2), full(2)],
        lean=full(style.sway / 2),
        nod=full(style.sway),
        lift=full(0),
        x=full(0),
        front=front,
    )


def _beat(t: Array, rate: float, style: Style) -> Array:
    """Oscillate between 0 and 1, `rate` times per second."""
    beat: Array = (0.5 - 0.5 * np.cos(2 * np.pi * (rate * style.tempo * t + style.phase))).astype(np.float32)
    return beat


def _cycle(t: Array, seconds: float, style: Style) -> Array:
    """Return the progress, 0 to 1, of an action that repeats every `seconds`."""
    return ((t * style.tempo / seconds + 0.35 * style.phase - 0.2) % 1.0).astype(np.float32)


def _ramp(progress: Array, start: float, stop: float) -> Array:
    """Return a smooth step: 0 before `start`, 1 after `stop`."""
    u = np.clip((progress - start) / (stop - start), 0, 1)
    ramp: Array = (u * u * (3 - 2 * u)).astype(np.float32)
    return ramp


def _point(x: Array, y: Array) -> Array:
    return np.stack([x, y], -1).astype(np.float32)


def _ball(x: Array, y: Array, hand: int | None = None) -> Prop:
    at = _point(x, y)
    return Prop("ball", at, at, 0.11, hand)


def waving(t: Array, s: Style) -> Pose:
    """Raise one arm and swing the forearm from side to side."""
    p = _pose(t, s, 1.0)
    p.arm[1] = p.arm[1] + 128 * s.reach
    p.elbow[1] = (25 + 38 * s.reach * np.sin(2 * np.pi * (1.8 * s.tempo * t + s.phase))).astype(np.float32)
    return p


def clapping(t: Array, s: Style) -> Pose:
    """Bring both hands together in front of the chest, repeatedly."""
    p, gap = _pose(t, s, 1.0), _beat(t, 2.0, s)
    for side, sign in enumerate((-1, 1)):
        p.arm[side] = sign * (22 + 22 * s.reach * gap)
        p.elbow[side] = -sign * (138 - 40 * s.reach * gap)
    return p


def jumping_jacks(t: Array, s: Style) -> Pose:
    """Spread and close arms and legs with every hop."""
    p, open_ = _pose(t, s, 1.0), _beat(t, 0.95, s)
    for side, sign in enumerate((-1, 1)):
        p.arm[side] = sign * (12 + 150 * s.reach * open_)
        p.thigh[side] = sign * (3 + 24 * s.reach * open_)
    p.lift = 0.09 * np.sin(np.pi * open_) ** 2
    return p


def squatting(t: Array, s: Style) -> Pose:
    """Bend the knees deeply and straighten them, with the arms forward for balance."""
    p, down = _pose(t, s), _beat(t, 0.5, s)
    for side in (0, 1):
        p.thigh[side] = p.thigh[side] + 92 * s.reach * down
        p.knee[side] = p.knee[side] + 108 * s.reach * down
        p.arm[side] = p.arm[side] + 80 * s.reach * down
    p.lean = p.lean + 28 * down
    return p


def _chair(t: Array) -> list[Prop]:
    one = np.ones_like(t)
    return [
        Prop("chair", _point(-0.42 * one, 0.45 * one), _point(-0.02 * one, 0.45 * one), 0.04),
        Prop("chair", _point(-0.42 * one, 0 * one), _point(-0.42 * one, 0.95 * one), 0.04),
        Prop("chair", _point(-0.02 * one, 0 * one), _point(-0.02 * one, 0.45 * one), 0.04),
    ]


def _seated(p: Pose, down: Array) -> Pose:
    """Move the pelvis from standing (down = 0) onto the chair (down = 1)."""
    for side in (0, 1):
        p.thigh[side] = p.thigh[side] + 86 * down
        p.knee[side] = p.knee[side] + 84 * down
    p.x = 0.14 - 0.34 * down
    p.props = _chair(p.x)
    return p


def sitting_down(t: Array, s: Style) -> Pose:
    """Sit down on a chair, with the hands reaching back for the seat."""
    progress = _cycle(t, 2.4, s)
    down = _ramp(progress, 0.2, 0.6)
    moving = np.sin(np.pi * down)
    p = _seated(_pose(t, s), down)
    p.lean = p.lean + 14 * s.reach * moving
    for side in (0, 1):
        p.arm[side] = p.arm[side] - 26 * s.reach * moving + 35 * _ramp(progress, 0.6, 0.8)
    return p


def standing_up(t: Array, s: Style) -> Pose:
    """Stand up from a chair: lean forward, then push from the knees."""
    progress = _cycle(t, 2.4, s)
    down = 1 - _ramp(progress, 0.3, 0.7)
    moving = np.sin(np.pi * down)
    p = _seated(_pose(t, s), down)
    p.lean = p.lean + 32 * s.reach * moving
    for side in (0, 1):
        p.arm[side] = p.arm[side] + 38 * s.reach * np.maximum(moving, 0.6 * _ramp(down, 0.6, 0.95))
    return p


def _gait(t: Array, s: Style, rate: float, swing: float, bend: float, elbow: float, lean: float, hop: float) -> Pose:
    p = _pose(t, s)
    phase = 2 * np.pi * (rate * s.tempo * t + s.phase)
    for side, shift in enumerate((0.0, np.pi)):
        stride = np.sin(phase + shift)
        p.thigh[side] = (6 + swing * s.reach * stride).astype(np.float32)
        p.knee[side] = (8 + bend * np.clip(np.cos(phase + shift), 0, 1)).astype(np.float32)
        p.arm[side] = (-swing * s.reach * stride).astype(np.float32)
        p.elbow[side] = np.full_like(t, elbow)
    p.lean = p.lean + lean
    p.lift = (hop * np.abs(np.cos(phase))).astype(np.float32)
    p.x = ((t - t.mean()) * rate * s.tempo * 0.35).astype(np.float32)
    return p


def walking(t: Array, s: Style) -> Pose:
    """Walk with straight, swinging arms."""
    return _gait(t, s, 0.9, 24, 32, 10, 2, 0.0)


def running(t: Array, s: Style) -> Pose:
    """Run with long, fast strides and bent elbows, leaning forward."""
    return _gait(t, s, 1.5, 40, 80, 75, 12, 0.07)


def jumping(t: Array, s: Style) -> Pose:
    """Crouch, then jump with both feet while the arms swing overhead."""
    p = _pose(t, s)
    u = (0.75 * s.tempo * t + s.phase) % 1.0
    crouch = np.clip(np.sin(2 * np.pi * u), 0, 1)
    air = np.clip(-np.sin(2 * np.pi * u), 0, 1)
    for side in (0, 1):
        p.thigh[side] = p.thigh[side] + 50 * crouch
        p.knee[side] = p.knee[side] + 80 * crouch
        p.arm[side] = p.arm[side] - 40 * crouch + 140 * s.reach * air
    p.lean = p.lean + 24 * crouch
    p.lift = (0.36 * s.reach * air).astype(np.float32)
    return p


def kicking(t: Array, s: Style) -> Pose:
    """Swing one leg back, then kick the ball away."""
    p, progress = _pose(t, s), _cycle(t, 1.8, s)
    back, kick = _ramp(progress, 0.1, 0.35), _ramp(progress, 0.38, 0.52)
    rest = _ramp(progress, 0.7, 0.95)
    swing = (-42 * back + 112 * s.reach * kick) * (1 - rest)
    p.thigh[1] = p.thigh[1] + swing
    p.knee[1] = p.knee[1] + (60 * back * (1 - kick)).astype(np.float32)
    p.arm[0] = p.arm[0] + 0.5 * swing
    p.arm[1] = p.arm[1] - 0.5 * swing
    p.lean = p.lean - 8 * kick * (1 - rest)
    flight = _ramp(progress, 0.46, 1.0)
    p.props = [_ball(0.35 + 1.6 * flight, 0.11 + 0.5 * np.sin(np.pi * np.minimum(flight * 1.3, 1)))]
    return p


def throwing(t: Array, s: Style) -> Pose:
    """Wind up one arm behind the head, whip it forward, and release the ball."""
    p, progress = _pose(t, s), _cycle(t, 1.8, s)
    wind, whip = _ramp(progress, 0.05, 0.35), _ramp(progress, 0.4, 0.55)
    rest = _ramp(progress, 0.75, 0.95)
    p.arm[1] = p.arm[1] + (-128 * s.reach * wind + 205 * whip) * (1 - rest)
    p.elbow[1] = p.elbow[1] - 70 * wind * (1 - whip)
    p.arm[0] = p.arm[0] + 45 * wind * (1 - rest)
    p.thigh[1] = p.thigh[1] + 22 * whip * (1 - rest)
    p.thigh[0] = p.thigh[0] - 18 * wind * (1 - rest)
    p.lean = p.lean + (-12 * wind + 32 * whip) * (1 - rest)
    fly = np.clip((progress - 0.5) / 0.5, 0, 1)
    held = (fly <= 0).astype(np.float32)
    in_hand, flying = _ball(0 * t, 0 * t, 1), _ball(0.55 + 2.2 * fly, 1.5 + 0.25 * fly - 0.9 * fly * fly)
    in_hand.visibility, flying.visibility = held, 1 - held
    p.props = [in_hand, flying]
    return p


def catching(t: Array, s: Style) -> Pose:
    """Hold both hands in front, catch the ball, and pull it to the chest."""
    p, progress = _pose(t, s), _cycle(t, 1.8, s)
    ready, pull = _ramp(progress, 0.0, 0.25), _ramp(progress, 0.5, 0.7)
    rest = _ramp(progress, 0.85, 1.0)
    for side, lag in enumerate((-6, 6)):
        p.arm[side] = p.arm[side] + lag + (72 * s.reach * ready - 45 * pull) * (1 - rest)
        p.elbow[side] = p.elbow[side] + (18 * ready + 75 * pull) * (1 - rest)
    p.lean = p.lean + (6 * ready - 14 * pull) * (1 - rest)
    fly = 1 - np.clip(progress / 0.5, 0, 1)
    held = (fly <= 0).astype(np.float32)
    in_hand, flying = _ball(0 * t, 0 * t, 2), _ball(0.62 + 2.2 * fly, 1.25 + 0.4 * fly - 0.5 * fly * fly)
    in_hand.visibility, flying.visibility = held, 1 - held
    p.props = [in_hand, flying]
    return p


def _box(p: Pose, s: Style, down: Array, away: Array) -> Pose:
    """Bend to the floor (down = 1) with straight arms. The box is in the hands where away = 0, else on the floor."""
    for side in (0, 1):
        p.thigh[side] = p.thigh[side] + 58 * down
        p.knee[side] = p.knee[side] + 74 * down
        p.arm[side] = p.arm[side] + 44 * s.reach - 14 * down
        p.elbow[side] = p.elbow[side] + 44 * (1 - down)
    p.lean = p.lean + 52 * s.reach * down
    one = np.ones_like(down)
    held = Prop("box", _point(-0.06 * one, 0 * one), _point(0.1 * one, 0 * one), 0.14, 2, 1 - away)
    left = Prop("box", _point(0.44 * one, 0.14 * one), _point(0.6 * one, 0.14 * one), 0.14, None, away)
    p.props = [held, left]
    return p


def lifting(t: Array, s: Style) -> Pose:
    """Bend down, grip a box on the floor, and straighten up with the box at the chest."""
    progress = _cycle(t, 2.4, s)
    down = _ramp(progress, 0.02, 0.25) * (1 - _ramp(progress, 0.4, 0.75))
    p = _box(_pose(t, s), s, down, (progress < 0.36).astype(np.float32))
    lift = _ramp(progress, 0.6, 0.8)
    p.lean = p.lean - 8 * lift
    return p


def putting_down(t: Array, s: Style) -> Pose:
    """Bend down with a box, put it on the floor, and straighten up with empty hands."""
    progress = _cycle(t, 2.4, s)
    down = _ramp(progress, 0.2, 0.5) * (1 - _ramp(progress, 0.66, 0.95))
    p = _box(_pose(t, s), s, down, (progress > 0.58).astype(np.float32))
    free = _ramp(progress, 0.62, 0.75)
    for side in (0, 1):
        p.arm[side] = p.arm[side] - 40 * free
        p.elbow[side] = p.elbow[side] * (1 - free)
    return p


def punching(t: Array, s: Style) -> Pose:
    """Raise the fists and punch forward with alternating arms."""
    p = _pose(t, s)
    beat = np.sin(2 * np.pi * (1.4 * s.tempo * t + s.phase))
    for side, sign in enumerate((1, -1)):
        out = np.clip(sign * beat * 1.4, 0, 1)
        p.arm[side] = (28 + 62 * s.reach * out).astype(np.float32)
        p.elbow[side] = (112 - 108 * out).astype(np.float32)
    p.thigh[0], p.thigh[1] = p.thigh[0] - 16, p.thigh[1] + 18
    p.knee[0], p.knee[1] = p.knee[0] + 6, p.knee[1] + 14
    p.lean = p.lean + 8
    return p


def batting(t: Array, s: Style) -> Pose:
    """Swing a bat with both hands from behind the shoulder to the front."""
    p, progress = _pose(t, s), _cycle(t, 1.7, s)
    swing, rest = _ramp(progress, 0.35, 0.55), _ramp(progress, 0.8, 1.0)
    turn = (-60 + 165 * s.reach * swing) * (1 - rest) - 60 * rest
    for side, lag in enumerate((-5, 5)):
        p.arm[side] = p.arm[side] * 0 + turn + lag
        p.elbow[side] = p.elbow[side] + 22
    p.lean = p.lean - 8 + 18 * swing * (1 - rest)
    p.thigh[0], p.thigh[1] = p.thigh[0] - 14, p.thigh[1] + 14
    angle = np.deg2rad(turn + 62 + 18 * swing)
    tip = _point(0.72 * np.sin(angle), -0.72 * np.cos(angle))
    p.props = [Prop("bat", 0 * tip, tip, 0.04, 2)]
    return p


def raising(t: Array, s: Style) -> Pose:
    """Raise one straight arm and keep it up."""
    p, progress = _pose(t, s, 1.0), _cycle(t, 3.0, s)
    up = _ramp(progress, 0.05, 0.3)
    p.arm[1] = p.arm[1] + 158 * s.reach * up
    p.elbow[1] = p.elbow[1] + 6 * up
    return p


def bowing(t: Array, s: Style) -> Pose:
    """Fold the torso forward from the hips and come up again, with straight legs."""
    p, fold = _pose(t, s), _beat(t, 0.5, s)
    p.lean = p.lean + 78 * s.reach * fold
    p.nod = p.nod + 20 * fold
    for side in (0, 1):
        p.arm[side] = p.arm[side] + 8 * fold
    return p


def dribbling(t: Array, s: Style) -> Pose:
    """Dribble a ball with one hand."""
    p = _pose(t, s)
    u = (1.5 * s.tempo * t + s.phase) % 1.0
    height = 1 - np.abs(2 * u - 1) ** 2
    p.arm[1] = (24 + 14 * s.reach * height).astype(np.float32)
    p.elbow[1] = (28 + 30 * height).astype(np.float32)
    for side in (0, 1):
        p.thigh[side] = p.thigh[side] + 18
        p.knee[side] = p.knee[side] + 30
    p.lean = p.lean + 16
    p.props = [_ball(0.42 + 0 * t, 0.11 + 0.62 * height)]
    return p


def drinking(t: Array, s: Style) -> Pose:
    """Bring a cup to the mouth and tip the head back."""
    p, progress = _pose(t, s), _cycle(t, 2.6, s)
    up = _ramp(progress, 0.1, 0.35) * (1 - _ramp(progress, 0.8, 1.0))
    p.arm[1] = (12 + 40 * s.reach * up).astype(np.float32)
    p.elbow[1] = (40 + 92 * up).astype(np.float32)
    p.nod = p.nod - 16 * up
    one = np.ones_like(t)
    p.props = [Prop("cup", _point(0.05 * one, -0.03 * one), _point(0.05 * one, 0.07 * one), 0.055, 1)]
    return p


MOTIONS: dict[str, Callable[[Array, Style], Pose]] = dict(
    zip(
        ACTIONS,
        (
            waving, clapping, jumping_jacks, squatting, sitting_down, standing_up, walking, running, jumping, kicking,
            throwing, catching, lifting, putting_down, punching, batting, raising, bowing, dribbling, drinking,
        ),
        strict=True,
    )
)  # fmt: skip
