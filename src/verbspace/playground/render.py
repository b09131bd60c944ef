"""Rendering of figures as anti-aliased capsules, in NumPy. Images are RGB, float32 in [0, 1], shape (F, H, W, 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verbspace.playground.figure import Array, Pose, compute_joints, prop_endpoints

SCENES: tuple[str, ...] = ("park", "street", "gym", "room")
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.18, 0.16), "blue": (0.18, 0.32, 0.78), "green": (0.15, 0.55, 0.25),
    "yellow": (0.90, 0.78, 0.20), "black": (0.12, 0.12, 0.14), "white": (0.93, 0.93, 0.92),
    "purple": (0.50, 0.25, 0.62), "orange": (0.92, 0.52, 0.14),
}  # fmt: skip
SKIN_COLORS = ((0.96, 0.80, 0.69), (0.87, 0.67, 0.51), (0.62, 0.43, 0.30), (0.40, 0.27, 0.19))
PROP_COLORS = {
    "ball": (0.95, 0.35, 0.20), "box": (0.62, 0.42, 0.22), "bat": (0.80, 0.62, 0.35), "cup": (0.85, 0.9, 0.98),
    "chair": (0.42, 0.28, 0.18),
}  # fmt: skip
WALL_COLORS = {
    "park": (0.62, 0.80, 0.93), "street": (0.72, 0.72, 0.74), "gym": (0.86, 0.82, 0.72), "room": (0.90, 0.86, 0.80),
}  # fmt: skip
FLOOR_COLORS = {
    "park": (0.42, 0.66, 0.32), "street": (0.42, 0.42, 0.45), "gym": (0.80, 0.56, 0.32), "room": (0.58, 0.46, 0.38),
}  # fmt: skip

Capsule = tuple[float, float, float, float, float, ArrayLike]  # x0, y0, x1, y1, radius, RGB color
# Landmarks of the scenes: capsules in meters.
LANDMARKS: dict[str, list[Capsule]] = {
    "park": [(-1.05, 0.1, -1.05, 0.8, 0.08, (0.40, 0.28, 0.18)), (-1.05, 1.2, -1.05, 1.5, 0.4, (0.22, 0.48, 0.22))],
    "street": [(1.15, 0.0, 1.15, 2.4, 0.05, (0.25, 0.25, 0.28)), (-6, -0.25, 6, -0.25, 0.04, (0.95, 0.95, 0.85))],
    "gym": [(-6, y, 6, y, 0.03, (0.66, 0.50, 0.34)) for y in (0.9, 1.3, 1.7)],
    "room": [(0.95, 1.35, 0.95, 1.65, 0.28, (0.55, 0.72, 0.90)), (0.95, 1.0, 0.95, 2.0, 0.02, (0.98, 0.98, 0.98))],
}


@dataclass(frozen=True)
class Appearance:
    """Clothes, skin, scene and size of a person, and whether the picture is mirrored."""

    shirt: str
    trousers: str
    skin: tuple[float, float, float]
    scene: str
    body_scale: float
    mirrored: bool

    @staticmethod
    def sample(rng: np.random.Generator, scene: str) -> Appearance:
        """Sample a random person in a scene."""
        names = list(COLORS)
        return Appearance(
            shirt=names[rng.integers(len(names))],
            trousers=names[rng.integers(len(names))],
            skin=SKIN_COLORS[rng.integers(len(SKIN_COLORS))],
            scene=scene,
            body_scale=float(rng.uniform(0.88, 1.12)),
            mirrored=bool(rng.integers(2)),
        )


@dataclass(frozen=True)
class Camera:
    """A camera, which may move."""

    center: Array  # point at the center of the image, in meters, shape (F, 2)
    scale: Array  # pixels per meter, shape (F,)
    roll: Array  # in radians, shape (F,)
    horizontal_stretch: float = 1.0  # factor on the width, as with a wrong aspect ratio

    def project(self, points: Array, size: tuple[int, int], mirrored: bool) -> Array:
        """Project points in meters, shape (F, 2) or (1, 2), to pixels (x, y), shape (F, 2)."""
        offset = points - self.center
        if mirrored:
            offset = offset * np.array([-1, 1], np.float32)
        cos, sin = np.cos(self.roll), np.sin(self.roll)
        x = cos * offset[:, 0] - sin * offset[:, 1]
        y = sin * offset[:, 0] + cos * offset[:, 1]
        height, width = size
        pixels = width / 2 + self.horizontal_stretch * self.scale * x, height / 2 - self.scale * y
        return np.stack(pixels, -1).astype(np.float32)


def draw_capsule(
    image: Array, a: Array, b: Array, radius: Array, color: Array, visibility: Array | None = None
) -> None:
    """Draw a capsule with anti-aliased edges into `image` (F, H, W, 3), in place.

    End points (F, 2) and radius (F,) are in pixels; `color` is RGB; `visibility` is the opacity of each frame, (F,).
    """
    height, width = image.shape[1:3]
    reach = float(radius.max()) + 1
    low = np.floor(np.minimum(a, b).min(0) - reach).astype(int)
    high = np.ceil(np.maximum(a, b).max(0) + reach).astype(int) + 1
    x0, y0 = max(low[0], 0), max(low[1], 0)
    x1, y1 = min(high[0], width), min(high[1], height)
    if x0 >= x1 or y0 >= y1:
        return
    x = np.arange(x0, x1, dtype=np.float32)[None, None, :] + 0.5
    y = np.arange(y0, y1, dtype=np.float32)[None, :, None] + 0.5
    ax, ay = a[:, 0, None, None], a[:, 1, None, None]
    dx, dy = b[:, 0, None, None] - ax, b[:, 1, None, None] - ay
    along = ((x - ax) * dx + (y - ay) * dy) / np.maximum(dx * dx + dy * dy, 1e-6)
    along = np.clip(along, 0, 1)
    distance = np.sqrt((x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2)
    cover = np.clip(radius[:, None, None] - distance + 0.5, 0, 1)
    if visibility is not None:
        cover = cover * visibility[:, None, None]
    patch = image[:, y0:y1, x0:x1]
    patch += cover[..., None] * (color - patch)


def render_frames(
    pose: Pose, appearance: Appearance, camera: Camera, size: tuple[int, int], clutter: Iterable[Capsule] = ()
) -> Array:
    """Render a clip as float32 frames in [0, 1], shape (F, H, W, 3).

    `size` is the height and width in pixels. `clutter` are objects unrelated to the action, in meters.
    """
    scene = appearance.scene
    image = np.empty((len(pose.x), *size, 3), np.float32)
    image[:] = np.array(WALL_COLORS[scene], np.float32)
    floor = (-6.0, -1.98, 6.0, -1.98, 2.0, FLOOR_COLORS[scene])
    for x0, y0, x1, y1, radius, color in (floor, *LANDMARKS[scene], *clutter):
        ends = (np.array([end], np.float32) for end in ((x0, y0), (x1, y1)))
        a, b = (camera.project(end, size, appearance.mirrored) for end in ends)
        draw_capsule(image, a, b, camera.scale * radius, np.asarray(color, np.float32))
    positions = compute_joints(pose)
    body_scale = np.float32(appearance.body_scale)
    thick = camera.scale * body_scale
    skin = np.array(appearance.skin, np.float32)
    shirt, trousers = (np.array(COLORS[name], np.float32) for name in (appearance.shirt, appearance.trousers))

    def project(point: Array) -> Array:
        return camera.project(point * body_scale, size, appearance.mirrored)

    at = {name: project(point) for name, point in positions.items()}

    def draw_limb(start: str, end: str, radius: float, color: Array) -> None:
        draw_capsule(image, at[start], at[end], thick * radius, color)

    def draw_props(behind: bool) -> None:
        for prop in pose.props:
            if (prop.kind == "chair") == behind:
                a, b = map(project, prop_endpoints(prop, positions))
                color = np.array(PROP_COLORS[prop.kind], np.float32)
                draw_capsule(image, a, b, thick * prop.radius, color, prop.visibility)

    def draw_arm(side: int, shade: float) -> None:
        draw_limb(f"shoulder{side}", f"elbow{side}", 0.06, shirt * shade)
        draw_limb(f"elbow{side}", f"hand{side}", 0.05, skin * shade)

    def draw_leg(side: int, shade: float) -> None:
        draw_limb(f"hip{side}", f"knee{side}", 0.085, trousers * shade)
        draw_limb(f"knee{side}", f"foot{side}", 0.065, trousers * shade)

    draw_props(behind=True)  # from back to front
    draw_arm(0, 0.72)
    draw_leg(0, 0.72)
    draw_leg(1, 0.92)
    draw_limb("pelvis", "neck", 0.135 if pose.front < 0.5 else 0.15, shirt)
    draw_limb("head", "head", 0.125, skin)
    draw_arm(1, 0.9)
    draw_props(behind=False)
    return np.clip(image, 0, 1)


def blur(image: Array, amount: float) -> Array:
    """Blur by `amount` passes of a three-tap filter along both axes; the last pass may be fractional."""
    for _ in range(int(np.ceil(amount))):
        k = np.float32(min(amount, 1.0) * 0.28)
        for axis in (1, 2):
            image = (1 - 2 * k) * image + k * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
        amount -= 1
    return image


@dataclass(frozen=True)
class CameraEffects:
    """Effects of optics, light and sensor. Each range is sampled once per clip or image."""

    blur_passes: tuple[float, float]  # passes of a three-tap filter
    haze: tuple[float, float]  # fraction of uniform gray
    warmth: tuple[float, float]  # shift of the color temperature from blue to red
    exposure: tuple[float, float]  # factor on the brightness
    noise_std: tuple[float, float]
    desaturation: float = 0.0  # fraction of the color that is removed


def apply_camera_effects(image: Array, effects: CameraEffects, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Apply camera effects and convert to uint8, shape (F, H, W, 3)."""
    image = blur(image, rng.uniform(*effects.blur_passes))
    image = image + np.float32(rng.uniform(*effects.haze)) * (np.float32(0.62) - image)
    image = image + np.float32(effects.desaturation) * (image.mean(-1, keepdims=True) - image)
    tint = 1 + rng.uniform(*effects.warmth) * np.array([1.0, 0.1, -1.0])
    image = image * (rng.uniform(*effects.exposure) * tint).astype(np.float32)
    image = image + rng.normal(scale=rng.uniform(*effects.noise_std), size=image.shape).astype(np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
