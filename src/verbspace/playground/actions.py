"""The twenty actions of the playground, as functions from timestamps and a personal style to poses.

Some actions differ only in the order of their frames: sitting down and standing up, lifting a box and putting down a
box. Others share many frames: walking and running, waving and raising a hand, throwing and catching a ball.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verbspace.playground.figure import Array, Pose, Prop


@dataclass(frozen=True)
class Style:
    """How a person performs an action."""

    tempo: float  # factor on the speed
    reach: float  # factor on the amplitude
    phase: float  # offset within the cycle, 0 to 1
    sway: float  # additional lean and nod, in degrees

    @staticmethod
    def sample(rng: np.random.Generator) -> Style:
        """Sample the style of a random person."""
        return Style(rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.1), rng.uniform(), rng.uniform(-4, 4))


def _pair(far: float, near: float) -> Array:
    """Return values for the far (or left) and the near (or right) limb, shape (2, 1)."""
    return np.array([[far], [near]], np.float32)


SIDES = _pair(-1, 1)


def _pose(t: Array, style: Style, front: float = 0.2) -> Pose:
    """Return the pose of a person who stands still."""
    breath = (1.5 * np.sin(2 * np.pi * (0.3 * t + style.phase))).astype(np.float32)
    spread = 8.0 if front > 0.5 else 4.0
    two = np.ones((2, len(t)), np.float32)
    return Pose(
        arm=SIDES * (spread - breath),
        elbow=4 * two,
        thigh=spread / 2 * SIDES * two,
        knee=2 * two,
        lean=np.full_like(t, style.sway / 2),
        nod=np.full_like(t, style.sway),
        lift=np.zeros_like(t),
        x=np.zeros_like(t),
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


def _point(x: Array | float, y: Array | float) -> Array:
    """Return points (x, y), shape (F, 2); one of them for all frames, shape (1, 2), if both are numbers."""
    return np.stack(np.broadcast_arrays(np.atleast_1d(np.float32(x)), np.float32(y)), -1)


def _ball(x: Array, y: Array) -> Prop:
    at = _point(x, y)
    return Prop("ball", at, at, 0.11)


def _held_and_flying(fly: Array, hand: int, flying: Prop) -> list[Prop]:
    """Return a ball that is in a hand (or in both: 2) where `fly` is 0, and the flying ball elsewhere."""
    held = (fly <= 0).astype(np.float32)
    flying.visibility = 1 - held
    return [Prop("ball", _point(0, 0), _point(0, 0), 0.11, hand, held), flying]


def waving(t: Array, s: Style) -> Pose:
    """Raise one arm and swing the forearm from side to side."""
    p = _pose(t, s, 1.0)
    p.arm[1] += 128 * s.reach
    p.elbow[1] = 25 + 38 * s.reach * np.sin(2 * np.pi * (1.8 * s.tempo * t + s.phase))
    return p


def clapping(t: Array, s: Style) -> Pose:
    """Bring both hands together in front of the chest, repeatedly."""
    p, gap = _pose(t, s, 1.0), _beat(t, 2.0, s)
    p.arm = SIDES * (22 + 22 * s.reach * gap)
    p.elbow = -SIDES * (138 - 40 * s.reach * gap)
    return p


def jumping_jacks(t: Array, s: Style) -> Pose:
    """Spread and close arms and legs with every hop."""
    p, open_ = _pose(t, s, 1.0), _beat(t, 0.95, s)
    p.arm = SIDES * (12 + 150 * s.reach * open_)
    p.thigh = SIDES * (3 + 24 * s.reach * open_)
    p.lift = 0.09 * np.sin(np.pi * open_) ** 2
    return p


def squatting(t: Array, s: Style) -> Pose:
    """Bend the knees deeply and straighten them, with the arms forward for balance."""
    p, down = _pose(t, s), _beat(t, 0.5, s)
    p.thigh += 92 * s.reach * down
    p.knee += 108 * s.reach * down
    p.arm += 80 * s.reach * down
    p.lean += 28 * down
    return p


def _seated(p: Pose, down: Array) -> Pose:
    """Move the pelvis from standing (down = 0) onto a chair (down = 1)."""
    p.thigh += 86 * down
    p.knee += 84 * down
    p.x = 0.14 - 0.34 * down
    seat, back = ((-0.42, 0.45), (-0.02, 0.45)), ((-0.42, 0), (-0.42, 0.95))
    p.props = [Prop("chair", _point(*a), _point(*b), 0.04) for a, b in (seat, back, ((-0.02, 0), (-0.02, 0.45)))]
    return p


def sitting_down(t: Array, s: Style) -> Pose:
    """Sit down on a chair, with the hands reaching back for the seat."""
    progress = _cycle(t, 2.4, s)
    down = _ramp(progress, 0.2, 0.6)
    moving = np.sin(np.pi * down)
    p = _seated(_pose(t, s), down)
    p.lean += 14 * s.reach * moving
    p.arm = p.arm - 26 * s.reach * moving + 35 * _ramp(progress, 0.6, 0.8)
    return p


def standing_up(t: Array, s: Style) -> Pose:
    """Stand up from a chair: lean forward, then push from the knees."""
    progress = _cycle(t, 2.4, s)
    down = 1 - _ramp(progress, 0.3, 0.7)
    moving = np.sin(np.pi * down)
    p = _seated(_pose(t, s), down)
    p.lean += 32 * s.reach * moving
    p.arm += 38 * s.reach * np.maximum(moving, 0.6 * _ramp(down, 0.6, 0.95))
    return p


def _gait(t: Array, s: Style, rate: float, swing: float, bend: float, elbow: float, lean: float, hop: float) -> Pose:
    p = _pose(t, s)
    phase = 2 * np.pi * (rate * s.tempo * t + s.phase)
    phases = phase + _pair(0.0, np.pi)
    p.thigh = 6 + swing * s.reach * np.sin(phases)
    p.knee = 8 + bend * np.clip(np.cos(phases), 0, 1)
    p.arm = -swing * s.reach * np.sin(phases)
    p.elbow[:] = elbow
    p.lean += lean
    p.lift = hop * np.abs(np.cos(phase))
    p.x = (t - t.mean()) * rate * s.tempo * 0.35
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
    p.thigh += 50 * crouch
    p.knee += 80 * crouch
    p.arm = p.arm - 40 * crouch + 140 * s.reach * air
    p.lean += 24 * crouch
    p.lift = 0.36 * s.reach * air
    return p


def kicking(t: Array, s: Style) -> Pose:
    """Swing one leg back, then kick the ball away."""
    p, progress = _pose(t, s), _cycle(t, 1.8, s)
    back, kick = _ramp(progress, 0.1, 0.35), _ramp(progress, 0.38, 0.52)
    rest = _ramp(progress, 0.7, 0.95)
    swing = (-42 * back + 112 * s.reach * kick) * (1 - rest)
    p.thigh[1] += swing
    p.knee[1] += 60 * back * (1 - kick)
    p.arm -= SIDES * 0.5 * swing
    p.lean -= 8 * kick * (1 - rest)
    flight = _ramp(progress, 0.46, 1.0)
    p.props = [_ball(0.35 + 1.6 * flight, 0.11 + 0.5 * np.sin(np.pi * np.minimum(flight * 1.3, 1)))]
    return p


def throwing(t: Array, s: Style) -> Pose:
    """Wind up one arm behind the head, whip it forward, and release the ball."""
    p, progress = _pose(t, s), _cycle(t, 1.8, s)
    wind, whip = _ramp(progress, 0.05, 0.35), _ramp(progress, 0.4, 0.55)
    rest = _ramp(progress, 0.75, 0.95)
    p.arm[1] += (-128 * s.reach * wind + 205 * whip) * (1 - rest)
    p.elbow[1] -= 70 * wind * (1 - whip)
    p.arm[0] += 45 * wind * (1 - rest)
    p.thigh[1] += 22 * whip * (1 - rest)
    p.thigh[0] -= 18 * wind * (1 - rest)
    p.lean += (-12 * wind + 32 * whip) * (1 - rest)
    fly = np.clip((progress - 0.5) / 0.5, 0, 1)
    p.props = _held_and_flying(fly, 1, _ball(0.55 + 2.2 * fly, 1.5 + 0.25 * fly - 0.9 * fly * fly))
    return p


def catching(t: Array, s: Style) -> Pose:
    """Hold both hands in front, catch the ball, and pull it to the chest."""
    p, progress = _pose(t, s), _cycle(t, 1.8, s)
    ready, pull = _ramp(progress, 0.0, 0.25), _ramp(progress, 0.5, 0.7)
    rest = _ramp(progress, 0.85, 1.0)
    p.arm = p.arm + 6 * SIDES + (72 * s.reach * ready - 45 * pull) * (1 - rest)
    p.elbow += (18 * ready + 75 * pull) * (1 - rest)
    p.lean += (6 * ready - 14 * pull) * (1 - rest)
    fly = 1 - np.clip(progress / 0.5, 0, 1)
    p.props = _held_and_flying(fly, 2, _ball(0.62 + 2.2 * fly, 1.25 + 0.4 * fly - 0.5 * fly * fly))
    return p


def _box(p: Pose, s: Style, down: Array, away: Array) -> Pose:
    """Bend to the floor (down = 1) with straight arms. The box is in the hands where away = 0, else on the floor."""
    p.thigh += 58 * down
    p.knee += 74 * down
    p.arm = p.arm + 44 * s.reach - 14 * down
    p.elbow += 44 * (1 - down)
    p.lean += 52 * s.reach * down
    held = Prop("box", _point(-0.06, 0), _point(0.1, 0), 0.14, 2, 1 - away)
    left = Prop("box", _point(0.44, 0.14), _point(0.6, 0.14), 0.14, None, away)
    p.props = [held, left]
    return p


def lifting(t: Array, s: Style) -> Pose:
    """Bend down, grip a box on the floor, and straighten up with the box at the chest."""
    progress = _cycle(t, 2.4, s)
    down = _ramp(progress, 0.02, 0.25) * (1 - _ramp(progress, 0.4, 0.75))
    p = _box(_pose(t, s), s, down, (progress < 0.36).astype(np.float32))
    p.lean -= 8 * _ramp(progress, 0.6, 0.8)
    return p


def putting_down(t: Array, s: Style) -> Pose:
    """Bend down with a box, put it on the floor, and straighten up with empty hands."""
    progress = _cycle(t, 2.4, s)
    down = _ramp(progress, 0.2, 0.5) * (1 - _ramp(progress, 0.66, 0.95))
    p = _box(_pose(t, s), s, down, (progress > 0.58).astype(np.float32))
    free = _ramp(progress, 0.62, 0.75)
    p.arm -= 40 * free
    p.elbow *= 1 - free
    return p


def punching(t: Array, s: Style) -> Pose:
    """Raise the fists and punch forward with alternating arms."""
    p = _pose(t, s)
    beat = np.sin(2 * np.pi * (1.4 * s.tempo * t + s.phase))
    out = np.clip(-SIDES * beat * 1.4, 0, 1)
    p.arm = 28 + 62 * s.reach * out
    p.elbow = 112 - 108 * out
    p.thigh += _pair(-16, 18)
    p.knee += _pair(6, 14)
    p.lean += 8
    return p


def batting(t: Array, s: Style) -> Pose:
    """Swing a bat with both hands from behind the shoulder to the front."""
    p, progress = _pose(t, s), _cycle(t, 1.7, s)
    swing, rest = _ramp(progress, 0.35, 0.55), _ramp(progress, 0.8, 1.0)
    turn = (-60 + 165 * s.reach * swing) * (1 - rest) - 60 * rest
    p.arm = turn + 5 * SIDES
    p.elbow += 22
    p.lean = p.lean - 8 + 18 * swing * (1 - rest)
    p.thigh += 14 * SIDES
    angle = np.deg2rad(turn + 62 + 18 * swing)
    p.props = [Prop("bat", _point(0, 0), _point(0.72 * np.sin(angle), -0.72 * np.cos(angle)), 0.04, 2)]
    return p


def raising(t: Array, s: Style) -> Pose:
    """Raise one straight arm and keep it up."""
    p, progress = _pose(t, s, 1.0), _cycle(t, 3.0, s)
    up = _ramp(progress, 0.05, 0.3)
    p.arm[1] += 158 * s.reach * up
    p.elbow[1] += 6 * up
    return p


def bowing(t: Array, s: Style) -> Pose:
    """Fold the torso forward from the hips and come up again, with straight legs."""
    p, fold = _pose(t, s), _beat(t, 0.5, s)
    p.lean += 78 * s.reach * fold
    p.nod += 20 * fold
    p.arm += 8 * fold
    return p


def dribbling(t: Array, s: Style) -> Pose:
    """Dribble a ball with one hand."""
    p = _pose(t, s)
    u = (1.5 * s.tempo * t + s.phase) % 1.0
    height = 1 - np.abs(2 * u - 1) ** 2
    p.arm[1] = 24 + 14 * s.reach * height
    p.elbow[1] = 28 + 30 * height
    p.thigh += 18
    p.knee += 30
    p.lean += 16
    p.props = [_ball(np.full_like(t, 0.42), 0.11 + 0.62 * height)]
    return p


def drinking(t: Array, s: Style) -> Pose:
    """Bring a cup to the mouth and tip the head back."""
    p, progress = _pose(t, s), _cycle(t, 2.6, s)
    up = _ramp(progress, 0.1, 0.35) * (1 - _ramp(progress, 0.8, 1.0))
    p.arm[1] = 12 + 40 * s.reach * up
    p.elbow[1] = 40 + 92 * up
    p.nod -= 16 * up
    p.props = [Prop("cup", _point(0.05, -0.03), _point(0.05, 0.07), 0.055, 1)]
    return p


MOTIONS: dict[str, Callable[[Array, Style], Pose]] = {
    "waving": waving, "clapping": clapping, "doing jumping jacks": jumping_jacks, "squatting": squatting,
    "sitting down": sitting_down, "standing up": standing_up, "walking": walking, "running": running,
    "jumping": jumping, "kicking a ball": kicking, "throwing a ball": throwing, "catching a ball": catching,
    "lifting a box": lifting, "putting down a box": putting_down, "punching": punching, "swinging a bat": batting,
    "raising a hand": raising, "bowing": bowing, "dribbling a ball": dribbling, "drinking from a cup": drinking,
}  # fmt: skip
ACTIONS = tuple(MOTIONS)
HELD_OUT_ACTIONS = ("clapping", "doing jumping jacks", "swinging a bat", "drinking from a cup")
OPPOSED_PAIRS = (
    ("sitting down", "standing up"), ("lifting a box", "putting down a box"), ("throwing a ball", "catching a ball"),
)  # fmt: skip
TRAIN_ACTIONS = tuple(name for name in ACTIONS if name not in HELD_OUT_ACTIONS)
