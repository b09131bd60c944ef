import numpy as np

from support.playground_files import STEADY, still_pose
from verbspace.playground.actions import ACTIONS, MOTIONS, Style
from verbspace.playground.captioned_images import (
    ACTION_PARAPHRASES,
    SCENE_PHRASES,
    make_caption,
    render_captioned_images,
    visible_facts,
)
from verbspace.playground.render import COLORS, SCENES, Appearance


def test_images_depend_on_the_seed_only() -> None:
    one, two = render_captioned_images(20, 5), render_captioned_images(20, 5)
    longer, other = render_captioned_images(40, 5), render_captioned_images(20, 6)
    assert one.images.shape == (20, 48, 48, 3)
    assert one.images.dtype == np.uint8
    np.testing.assert_array_equal(one.images, two.images)
    assert one.captions == two.captions == longer.captions[:20]
    np.testing.assert_array_equal(one.images, longer.images[:20])
    assert (one.images != other.images).any()
    assert longer.labels.tolist() == list(range(20)) * 2


def test_captions_name_only_their_own_action() -> None:
    captioned = render_captioned_images(400, 11, size=8)
    named = 0
    for label, text in zip(captioned.labels, captioned.captions, strict=True):
        own_phrases = (ACTIONS[label], *ACTION_PARAPHRASES[ACTIONS[label]])
        named += any(phrase in text for phrase in own_phrases)
        rest = text.replace(ACTIONS[label], "")  # jumping is in "doing jumping jacks"
        others = [name for name in ACTIONS if name != ACTIONS[label] and name in rest]
        assert not others, text
    assert 0.75 < named / 400 < 0.95  # the rest say only what can be seen
    assert sum(ACTIONS[label] in text for label, text in zip(captioned.labels, captioned.captions, strict=True)) > 150


def test_captions_are_true_for_clothes_scene_and_limbs() -> None:
    rng = np.random.default_rng(3)
    for index in range(200):
        action = ACTIONS[index % 20]
        pose = MOTIONS[action](np.array([rng.uniform(0, 2.4)], np.float32), Style.sample(rng))
        appearance = Appearance.sample(rng, SCENES[index % 4])
        text = make_caption(action, pose, appearance, rng)
        seen = {f"{color} {what}" for color in COLORS for what in ("shirt", "trousers") if f"{color} {what}" in text}
        assert seen <= {f"{appearance.shirt} shirt", f"{appearance.trousers} trousers"}
        assert {place for place in SCENE_PHRASES.values() if place in text} <= {SCENE_PHRASES[appearance.scene]}
        facts = visible_facts(pose)
        for claim in ("above the head", "on the floor", "seated on a chair", "in the hand", "feet off the ground"):
            words = [words for words in (action, *ACTION_PARAPHRASES[action]) if claim in words]
            assert claim not in text or words or any(claim in statement for statement in facts)


def test_visible_facts_follow_from_the_joints() -> None:
    assert visible_facts(still_pose()) == ["arms hanging at the sides", "legs straight"]
    for fact, changes in (
        ("both arms raised above the head", {"arm": [170, 180]}),
        ("one arm raised above the head", {"arm": [0, 180]}),
        ("both hands reaching forward", {"arm": [90, 90]}),
        ("the upper body folded forward", {"lean": 60}),
        ("both feet off the ground", {"lift": 0.2}),
        ("knees bent deeply", {"thigh": [80, 80], "knee": [80, 80]}),
    ):
        assert fact in visible_facts(still_pose(**changes))
    end = np.array([0.9 * 2.4], np.float32)
    assert "seated on a chair" in visible_facts(MOTIONS["sitting down"](end, STEADY))
    assert "a chair behind" in visible_facts(MOTIONS["standing up"](end, STEADY))
    assert "a box in the hands" in visible_facts(MOTIONS["lifting a box"](end, STEADY))
    assert "a box on the floor" in visible_facts(MOTIONS["putting down a box"](end, STEADY))
