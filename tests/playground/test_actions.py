import numpy as np
import pytest

from support.playground_files import STEADY, still_pose
from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import description_action_mask
from verbspace.playground import figure
from verbspace.playground.actions import ACTIONS, HELD_OUT_ACTIONS, MOTIONS, TRAIN_ACTIONS, Style
from verbspace.playground.captioned_images import ACTION_PARAPHRASES
from verbspace.playground.figure import Prop, compute_joints, prop_endpoints

MOMENTS = np.linspace(0, 4, 120, dtype=np.float32)


def test_joint_positions_match_hand_computed_values() -> None:
    at = {name: place[0] for name, place in compute_joints(still_pose()).items()}
    np.testing.assert_allclose(at["foot1"][1], 0, atol=1e-6)
    np.testing.assert_allclose(at["pelvis"], [0, 0.84], atol=1e-6)
    np.testing.assert_allclose(at["head"], [0, 0.84 + 0.52 + 0.17], atol=1e-6)
    np.testing.assert_allclose(at["shoulder1"], [0.5 * 0.36 * 0.2, 1.31], atol=1e-6)
    bent = still_pose(arm=[0, 90], elbow=[0, 90], knee=[0, 90])
    at = {name: place[0] for name, place in compute_joints(bent).items()}
    np.testing.assert_allclose(at["elbow1"] - at["shoulder1"], [0.29, 0], atol=1e-6)  # arm forward, forearm up
    np.testing.assert_allclose(at["hand1"] - at["elbow1"], [0, 0.27], atol=1e-6)
    np.testing.assert_allclose(at["foot1"] - at["knee1"], [-0.42, 0], atol=1e-6)  # the shin folds backward
    bent = compute_joints(still_pose(lean=90, lift=0.5))
    np.testing.assert_allclose(bent["neck"][0] - bent["pelvis"][0], [0.52, 0], atol=1e-6)
    np.testing.assert_allclose(bent["foot0"][0, 1], 0.5, atol=1e-6)


def test_props_follow_the_hands() -> None:
    at = compute_joints(still_pose(arm=[90, 0]))
    offset, end = np.array([[0.1, 0.2]], np.float32), np.array([[0.3, 0.0]], np.float32)
    for hand, base in ((0, at["hand0"]), (1, at["hand1"]), (2, (at["hand0"] + at["hand1"]) / 2)):
        a, b = prop_endpoints(Prop("cup", offset, end, 0.05, hand), at)
        np.testing.assert_allclose((a, b), (base + offset, base + end), atol=1e-6)
    assert prop_endpoints(Prop("ball", offset, end, 0.05), at) == (offset, end)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_keeps_limb_lengths_and_ground_contact_and_moves(action: str) -> None:
    for seed in range(4):
        pose = MOTIONS[action](MOMENTS, Style.sample(np.random.default_rng(seed)))
        at = compute_joints(pose)
        assert all(place.shape == (120, 2) and np.isfinite(place).all() for place in at.values())
        for side in (0, 1):
            for start, end, length in (
                ("shoulder", "elbow", figure.UPPER_ARM), ("elbow", "hand", figure.FOREARM),
                ("hip", "knee", figure.THIGH), ("knee", "foot", figure.SHIN),
            ):  # fmt: skip
                bone = np.linalg.norm(at[f"{end}{side}"] - at[f"{start}{side}"], axis=-1)
                np.testing.assert_allclose(bone, length, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(at["neck"] - at["pelvis"], axis=-1), figure.TORSO, atol=1e-5)
        feet = np.minimum(at["foot0"][:, 1], at["foot1"][:, 1])
        np.testing.assert_allclose(feet, pose.lift, atol=1e-5)
        assert (pose.lift >= 0).all()
        assert all(place[:, 1].min() >= -1e-5 and place[:, 1].max() < 2.4 for place in at.values())
        assert max(np.ptp(place - at["pelvis"], axis=0).max() for place in at.values()) > 0.15
        for prop in pose.props:
            for end in prop_endpoints(prop, at):
                assert np.broadcast_shapes(end.shape, (120, 2)) == (120, 2)
                assert np.isfinite(end).all()
            assert prop.visibility is None or set(np.unique(prop.visibility)) <= {0.0, 1.0}


def test_opposite_actions_differ_in_frame_order() -> None:
    begin, end = np.array([0.1], np.float32) * 2.4, np.array([0.9], np.float32) * 2.4

    def pelvis(action: str, when: np.ndarray) -> float:
        return float(compute_joints(MOTIONS[action](when, STEADY))["pelvis"][0, 1])

    assert pelvis("sitting down", begin) > pelvis("sitting down", end) + 0.2
    assert pelvis("standing up", begin) < pelvis("standing up", end) - 0.2

    def in_hands(action: str, when: np.ndarray) -> list[float]:
        props = MOTIONS[action](when, STEADY).props
        return [float(prop.visibility[0]) for prop in props if prop.visibility is not None]

    assert (in_hands("lifting a box", begin), in_hands("lifting a box", end)) == ([0, 1], [1, 0])
    assert (in_hands("putting down a box", begin), in_hands("putting down a box", end)) == ([1, 0], [0, 1])
    begin, end = begin * 1.8 / 2.4, end * 1.8 / 2.4
    assert (in_hands("throwing a ball", begin), in_hands("throwing a ball", end)) == ([1, 0], [0, 1])
    assert (in_hands("catching a ball", begin), in_hands("catching a ball", end)) == ([0, 1], [1, 0])


def test_twenty_actions_of_which_four_are_held_out() -> None:
    assert len(set(ACTIONS)) == 20
    assert len(HELD_OUT_ACTIONS) == 4
    assert sorted(TRAIN_ACTIONS + HELD_OUT_ACTIONS) == sorted(ACTIONS)
    assert ACTION_PARAPHRASES.keys() == set(ACTIONS)


def test_bundled_concept_set_covers_the_actions() -> None:
    concepts = ConceptSet.load("playground")
    assert concepts.action_names == list(ACTIONS)
    assert bool(description_action_mask(concepts).any(0).all())
    trained = concepts.subset(TRAIN_ACTIONS)
    assert trained.action_names == list(TRAIN_ACTIONS)
    assert not {name for text in trained.descriptions for name in text.actions} & set(HELD_OUT_ACTIONS)
    assert 0 < len(trained.descriptions) < len(concepts.descriptions)
