from dataclasses import replace

import numpy as np
import pytest

from support.playground_files import PLAIN, STEADY
from verbspace.playground.actions import MOTIONS
from verbspace.playground.render import (
    COLORS,
    SCENES,
    SKIN_COLORS,
    Appearance,
    Camera,
    apply_camera_effects,
    blur,
    draw_capsule,
    render_frames,
)


def test_capsule_covers_exactly_its_area() -> None:
    image = np.zeros((1, 40, 60, 3), np.float32)
    a, b = np.array([[20, 20]], np.float32), np.array([[40, 20]], np.float32)
    draw_capsule(image, a, b, np.array([6], np.float32), np.array([1, 0.5, 0], np.float32))
    assert image[0, ..., 0].sum() == pytest.approx(20 * 12 + np.pi * 36, rel=0.01)
    np.testing.assert_allclose(image[0, 20, 30], [1, 0.5, 0])
    y, x = np.mgrid[:40, :60] + 0.5
    away = np.hypot(x - np.clip(x, 20, 40), y - 20)
    assert not image[0][away > 6.6].any()
    assert (image[0][away < 5.4] == [1, 0.5, 0]).all()


def test_capsule_outside_the_image_or_invisible_draws_nothing() -> None:
    image = np.full((2, 8, 8, 3), 0.5, np.float32)
    two = np.array([[-50, 4], [-50, 4]], np.float32)
    radius, white = np.full(2, 3, np.float32), np.ones(3, np.float32)
    draw_capsule(image, two, two, radius, white)
    assert (image == 0.5).all()
    middle = np.full((2, 2), 4, np.float32)
    draw_capsule(image, middle, middle, radius, white, np.array([0, 1], np.float32))
    assert (image[0] == 0.5).all()
    assert image[1].max() == 1


def make_camera(x: float, y: float, scale: float, stretch: float = 1.0) -> Camera:
    return Camera(np.array([[x, y]], np.float32), np.float32([scale]), np.zeros(1, np.float32), stretch)


def test_camera_projects_its_center_to_the_image_center() -> None:
    camera = make_camera(1, 1, scale=10, stretch=1.5)
    points = {"center": [1, 1], "right": [2, 1], "above": [1, 2]}
    seen = {k: camera.project(np.array([v], np.float32), (64, 80), False)[0].tolist() for k, v in points.items()}
    assert seen == {"center": [40, 32], "right": [55, 32], "above": [40, 22]}
    assert camera.project(np.array([[2, 1]], np.float32), (64, 80), True)[0].tolist() == [25, 32]


@pytest.mark.parametrize("scene", SCENES)
def test_mirrored_appearance_mirrors_the_image(scene: str) -> None:
    pose, camera = MOTIONS["kicking a ball"](np.float32([0.3, 0.9]), STEADY), make_camera(0, 1.02, scale=48 / 2.5)
    plain, mirrored = (
        render_frames(pose, Appearance("red", "blue", SKIN_COLORS[0], scene, 1.0, side), camera, (48, 60))
        for side in (False, True)
    )
    assert plain.shape == (2, 48, 60, 3)
    assert 0 <= plain.min() <= plain.max() <= 1
    np.testing.assert_allclose(mirrored[:, :, ::-1], plain, atol=1e-4)
    assert np.abs(mirrored - plain).max() > 0.3
    assert np.abs(plain[0] - plain[1]).max() > 0.3  # the leg moved
    for color in ("red", "blue"):  # clothes are in the picture, in their colors
        assert (np.abs(plain - np.array(COLORS[color]) * 0.92).max(-1) < 0.09).any()


def test_each_camera_effect_has_its_effect() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(apply_camera_effects(image, PLAIN, rng), np.floor(image * 255 + 0.5).astype(np.uint8))

    def apply(**changes: object) -> np.ndarray:
        return apply_camera_effects(image, replace(PLAIN, **changes), rng).astype(float)

    np.testing.assert_allclose(apply(exposure=(0.5, 0.5)), image * 127.5, atol=0.51)
    assert np.ptp(apply(desaturation=1.0), axis=-1).max() <= 1
    warm = apply(warmth=(0.1, 0.1), exposure=(0.8, 0.8))
    assert warm[..., 0].mean() > 0.8 * 255 * image[..., 0].mean() * 1.05
    assert warm[..., 2].mean() < 0.8 * 255 * image[..., 2].mean() * 0.95
    noisy = replace(PLAIN, noise_std=(0.05, 0.05))
    one, two, other = (apply_camera_effects(image, noisy, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_blur_preserves_total_brightness() -> None:
    point = np.zeros((1, 9, 9, 3), np.float32)
    point[0, 4, 4] = 1
    soft = blur(point, 2)
    assert soft.sum() == pytest.approx(3, rel=1e-5)
    assert soft[0, 4, 4, 0] < 0.5
    assert soft[0, 4, 2, 0] > 0
    np.testing.assert_array_equal(blur(point, 0), point)
