"""Captioned images for pretraining and testing the small CLIP.

A caption is true of its image. It describes the action, the position of the limbs (computed from the joints), objects,
clothes and the scene, but no motion.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verbspace.playground.actions import ACTIONS, MOTIONS, Style
from verbspace.playground.figure import Pose, compute_joints
from verbspace.playground.render import SCENES, Appearance, Camera, CameraEffects, apply_camera_effects, render_frames

SCENE_PHRASES = {"park": "in a park", "street": "on a street", "gym": "in a gym", "room": "in a room"}
TYPICAL_SCENES = {
    "waving": "street", "doing jumping jacks": "gym", "squatting": "gym", "sitting down": "room", "standing up": "room",
    "walking": "street", "running": "park", "kicking a ball": "park", "throwing a ball": "park",
    "catching a ball": "park", "punching": "gym", "dribbling a ball": "gym", "drinking from a cup": "room",
    "lifting a box": "room", "putting down a box": "room", "bowing": "room",
}  # fmt: skip
MOSTLY_NAMED = 0.85
CLEAN_EFFECTS = CameraEffects(
    blur_passes=(0.0, 0.5), haze=(0.0, 0.12), warmth=(-0.08, 0.08), exposure=(0.7, 1.1), noise_std=(0.0, 0.02)
)
ACTION_PARAPHRASES: dict[str, tuple[str, ...]] = {
    "waving": (
        "swinging a raised forearm from side to side", "greeting with one open hand", "saying hello with a hand",
    ),
    "clapping": (
        "bringing both palms together", "applauding with the hands at the chest", "striking the hands together",
    ),
    "doing jumping jacks": (
        "spreading arms and legs wide with a hop", "hopping with arms and legs apart", "exercising",
    ),
    "squatting": ("lowering the hips with bent knees", "sinking down with the arms forward", "exercising the legs"),
    "sitting down": ("lowering onto a chair", "taking a seat", "reaching back for the seat of a chair"),
    "standing up": ("rising from a chair", "getting up from a seat", "pushing up from the knees out of a chair"),
    "walking": ("taking easy steps", "strolling with swinging arms", "stepping along slowly"),
    "running": ("taking long fast strides", "sprinting with bent elbows", "jogging fast and leaning forward"),
    "jumping": ("leaping up into the air", "springing off the ground with both feet", "bouncing up from a crouch"),
    "kicking a ball": ("swinging a leg at a ball", "striking a ball with the foot", "shooting a ball along the ground"),
    "throwing a ball": (
        "hurling a ball with one arm", "winding up to pitch a ball", "letting a ball fly from the hand",
    ),
    "catching a ball": (
        "receiving a ball with both hands", "grabbing a flying ball", "holding out both hands for a ball",
    ),
    "lifting a box": ("picking a box up from the floor", "hoisting a box to the chest", "raising a box off the floor"),
    "putting down a box": ("placing a box on the floor", "lowering a box to the floor", "setting a box down"),
    "punching": ("shooting one fist forward", "boxing with raised fists", "striking with the fists in turn"),
    "swinging a bat": ("sweeping a bat with both hands", "hitting with a bat", "batting"),
    "raising a hand": ("holding one arm straight up", "putting a hand up", "asking with a lifted hand"),
    "bowing": (
        "folding the upper body forward", "bending at the hips with straight legs", "lowering the head in respect",
    ),
    "dribbling a ball": (
        "bouncing a ball on the floor", "patting a ball with one hand", "pushing a ball to the ground",
    ),
    "drinking from a cup": ("bringing a cup to the mouth", "sipping with the head tipped back", "taking a drink"),
}  # fmt: skip


@dataclass(frozen=True)
class CaptionedImages:
    """N images with captions and labels."""

    images: NDArray[np.uint8]  # shape (N, S, S, 3)
    captions: list[str]
    labels: NDArray[np.int64]  # indices into `ACTIONS`, shape (N,)


def sample_scene(action: str, rng: np.random.Generator) -> str:
    """Sample a scene: with probability 0.4 the typical scene of the action if it has one, otherwise any scene."""
    if action in TYPICAL_SCENES and rng.uniform() < 0.4:
        return TYPICAL_SCENES[action]
    return SCENES[rng.integers(len(SCENES))]


def visible_facts(pose: Pose) -> list[str]:
    """List true statements about the first frame of a pose."""
    at = {name: positions[0] for name, positions in compute_joints(pose).items()}
    hands, feet = (at["hand0"], at["hand1"]), (at["foot0"], at["foot1"])
    above = [hand[1] > at["head"][1] for hand in hands]
    below = [hand[1] < at["pelvis"][1] + 0.06 for hand in hands]
    forward = [pose.front < 0.5 and hand[0] > at["neck"][0] + 0.3 for hand in hands]
    heights = [foot[1] for foot in feet]
    lift, lean, knees = pose.lift[0], pose.lean[0], pose.knee[:, 0]
    statements = {
        "both arms raised above the head": all(above),
        "one arm raised above the head": any(above) and not all(above),
        "arms hanging at the sides": not any(above) and all(below) and max(abs(pose.arm[:, 0])) < 25,
        "both hands reaching forward": all(forward),
        "one hand reaching forward": any(forward) and not all(forward),
        "palms together": pose.front > 0.5 and np.hypot(*(hands[0] - hands[1])) < 0.14,
        "arms spread wide": abs(hands[0][0] - hands[1][0]) > 0.95,
        "knees bent deeply": min(knees) > 60,
        "legs straight": max(knees) < 12 and lift < 0.03,
        "legs apart": abs(feet[0][0] - feet[1][0]) > 0.5,
        "one foot lifted": max(heights) > min(heights) + 0.2,
        "both feet off the ground": lift > 0.05,
        "the upper body folded forward": lean > 45,
        "leaning forward": 14 < lean <= 45,
        "leaning back": lean < -7,
        "elbows bent": max(pose.elbow[:, 0]) > 60,
    }
    out = [statement for statement, is_true in statements.items() if is_true]
    for prop in pose.props:
        if prop.visibility is not None and prop.visibility[0] < 0.5:
            continue
        if prop.kind == "ball":
            place = "in the hands" if prop.hand is not None else "on the ground" if prop.a[0, 1] < 0.2 else "in the air"
            out.append(f"a ball {place}")
        elif prop.kind == "box":
            out.append("a box in the hands" if prop.hand is not None else "a box on the floor")
        elif prop.kind == "chair":
            out.append("seated on a chair" if pose.thigh[0][0] > 70 else "a chair behind")
            return out
        else:
            out.append("a cup in the hand" if prop.kind == "cup" else "a bat in the hands")
    return out


def make_caption(
    action: str, pose: Pose, appearance: Appearance, rng: np.random.Generator, named: float = MOSTLY_NAMED
) -> str:
    """Compose a caption: the person, in a fraction `named` of them the action or a paraphrase, and visible facts."""
    prefix = ("a photo of ", "a picture of ", "")[rng.integers(3)]
    shirt, trousers = f"a person in a {appearance.shirt} shirt", f"a person in {appearance.trousers} trousers"
    person = ("a person", "someone", shirt, trousers)[rng.integers(4)]
    draw = rng.uniform()
    paraphrases = ACTION_PARAPHRASES[action]
    doing = ""
    if draw < named:
        doing = action if draw < named * 0.5 / MOSTLY_NAMED else paraphrases[rng.integers(len(paraphrases))]
    facts = visible_facts(pose)
    rng.shuffle(facts)
    parts = facts[: int(rng.integers(0 if doing else 1, 4))]
    if rng.uniform() < 0.35:
        parts.append(SCENE_PHRASES[appearance.scene])
    verb = f" {doing}" if doing else ""
    details = (", " if doing else " with ") + ", ".join(parts) if parts else ""
    return f"{prefix}{person}{verb}{details}"


def render_captioned_images(
    count: int, seed: int, size: int = 48, *, named: float = MOSTLY_NAMED, never_named: Collection[str] = ()
) -> CaptionedImages:
    """Render images of people at random moments of the actions, without degradation.

    Image n shows action n modulo the number of actions. It does not depend on `count`.

    Args:
        count: Number of images.
        seed: Seed of the images and captions.
        size: Height and width in pixels.
        named: Fraction of captions that name the action or paraphrase its name. The others list visible facts.
        never_named: Actions that no caption names.
    """
    rng = np.random.default_rng([seed, 7])
    images = np.empty((count, size, size, 3), np.uint8)
    captions: list[str] = []
    labels = np.arange(count) % len(ACTIONS)
    for index, label in enumerate(labels):
        action = ACTIONS[label]
        moment = np.array([rng.uniform(0, 2.4)], np.float32)
        pose = MOTIONS[action](moment, Style.sample(rng))
        appearance = Appearance.sample(rng, sample_scene(action, rng))
        zoom, x, y = rng.uniform(0.95, 1.35), rng.uniform(-0.2, 0.2), rng.uniform(0.85, 1.05)
        camera = Camera(
            np.array([[x, y]], np.float32), np.array([zoom * size / 2.5], np.float32), np.zeros(1, np.float32)
        )
        frames = render_frames(pose, appearance, camera, (size, size))
        images[index] = apply_camera_effects(frames, CLEAN_EFFECTS, rng)[0]
        captions.append(make_caption(action, pose, appearance, rng, 0.0 if action in never_named else named))
    return CaptionedImages(images, captions, labels)
