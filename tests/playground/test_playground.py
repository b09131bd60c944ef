import json
import shutil
import socket
from collections import Counter
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import CLIPModel, CLIPTokenizer

from support.playground_files import TINY_WORLD_SETTINGS, read_tree, tiny_world
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.models.hub import BUNDLED_CHECKPOINTS
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground import figure
from verbspace.playground.actions import ACTIONS, HELD_OUT_ACTIONS, MOTIONS, TRAIN_ACTIONS, Style
from verbspace.playground.figure import Pose, Prop, joints, prop_endpoints
from verbspace.playground.pretrain import (
    IMAGE_MEAN,
    IMAGE_STD,
    build_clip_model,
    save_clip_model,
    to_pixel_values,
    train_tokenizer,
    zero_shot_accuracy,
)
from verbspace.playground.render import (
    COLORS,
    SCENES,
    SKIN_COLORS,
    Appearance,
    Camera,
    CameraEffects,
    apply_camera_effects,
    blur,
    draw_capsule,
    render_frames,
)
from verbspace.playground.captioned_images import (
    ACTION_PARAPHRASES,
    SCENE_PHRASES,
    make_caption,
    render_captioned_images,
    visible_facts,
)
from verbspace.playground.world import DomainShift, WorldSettings, make_world, render_video, split_actions, write_clip

PLAIN = CameraEffects((0, 0), (0, 0), (0, 0), (1, 1), (0, 0))
STEADY = Style(tempo=1.0, reach=1.0, phase=0.2 / 0.35, sway=0.0)  # an action done once starts at its beginning
MOMENTS = np.linspace(0, 4, 120, dtype=np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory)


def still_pose(**changes: list[float] | float) -> Pose:
    """One frame of someone upright, arms and legs straight down; angles in degrees."""

    def one(value: float) -> np.ndarray:
        return np.array([value], np.float32)

    given = {"arm": [0, 0], "elbow": [0, 0], "thigh": [0, 0], "knee": [0, 0], "lean": 0, "nod": 0, "lift": 0, "x": 0}
    return Pose(**{k: [one(x) for x in v] if isinstance(v, list) else one(v) for k, v in (given | changes).items()})


# The figure and its actions.


def test_joints_of_poses_worked_out_by_hand() -> None:
    at = {name: place[0] for name, place in joints(still_pose()).items()}
    np.testing.assert_allclose(at["foot1"][1], 0, atol=1e-6)
    np.testing.assert_allclose(at["pelvis"], [0, 0.84], atol=1e-6)
    np.testing.assert_allclose(at["head"], [0, 0.84 + 0.52 + 0.17], atol=1e-6)
    np.testing.assert_allclose(at["shoulder1"], [0.5 * 0.36 * 0.2, 1.31], atol=1e-6)
    at = {name: place[0] for name, place in joints(still_pose(arm=[0, 90], elbow=[0, 90], knee=[0, 90])).items()}
    np.testing.assert_allclose(at["elbow1"] - at["shoulder1"], [0.29, 0], atol=1e-6)  # arm forward, forearm up
    np.testing.assert_allclose(at["hand1"] - at["elbow1"], [0, 0.27], atol=1e-6)
    np.testing.assert_allclose(at["foot1"] - at["knee1"], [-0.42, 0], atol=1e-6)  # the shin folds backward
    bent = joints(still_pose(lean=90, lift=0.5))
    np.testing.assert_allclose(bent["neck"][0] - bent["pelvis"][0], [0.52, 0], atol=1e-6)
    np.testing.assert_allclose(bent["foot0"][0, 1], 0.5, atol=1e-6)


def test_props_follow_the_hands_that_hold_them() -> None:
    at = joints(still_pose(arm=[90, 0]))
    offset, end = np.array([[0.1, 0.2]], np.float32), np.array([[0.3, 0.0]], np.float32)
    for hand, base in ((0, at["hand0"]), (1, at["hand1"]), (2, (at["hand0"] + at["hand1"]) / 2)):
        a, b = prop_endpoints(Prop("cup", offset, end, 0.05, hand), at)
        np.testing.assert_allclose((a, b), (base + offset, base + end), atol=1e-6)
    assert prop_endpoints(Prop("ball", offset, end, 0.05), at) == (offset, end)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_keeps_the_body_whole_and_on_the_ground_and_moves_it(action: str) -> None:
    for seed in range(4):
        pose = MOTIONS[action](MOMENTS, Style.sample(np.random.default_rng(seed)))
        at = joints(pose)
        assert all(place.shape == (120, 2) and np.isfinite(place).all() for place in at.values())
        for side in (0, 1):
            for start, end, length in (
                ("shoulder", "elbow", figure.UPPER_ARM),
                ("elbow", "hand", figure.FOREARM),
                ("hip", "knee", figure.THIGH),
                ("knee", "foot", figure.SHIN),
            ):
                bone = np.linalg.norm(at[f"{end}{side}"] - at[f"{start}{side}"], axis=-1)
                np.testing.assert_allclose(bone, length, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(at["neck"] - at["pelvis"], axis=-1), figure.TORSO, atol=1e-5)
        feet = np.minimum(at["foot0"][:, 1], at["foot1"][:, 1])
        np.testing.assert_allclose(feet, pose.lift, atol=1e-5)
        assert (pose.lift >= 0).all()
        assert all(place[:, 1].min() >= -1e-5 and place[:, 1].max() < 2.4 for place in at.values())
        assert max(np.ptp(place - at["pelvis"], axis=0).max() for place in at.values()) > 0.15
        for prop in pose.props:
            a, b = prop_endpoints(prop, at)
            assert a.shape == b.shape == (120, 2)
            assert np.isfinite([a, b]).all()
            assert prop.visibility is None or set(np.unique(prop.visibility)) <= {0.0, 1.0}


def test_what_tells_opposite_actions_apart_is_their_order() -> None:
    begin, end = np.array([0.1], np.float32) * 2.4, np.array([0.9], np.float32) * 2.4

    def pelvis(action: str, when: np.ndarray) -> float:
        return float(joints(MOTIONS[action](when, STEADY))["pelvis"][0, 1])

    assert pelvis("sitting down", begin) > pelvis("sitting down", end) + 0.2
    assert pelvis("standing up", begin) < pelvis("standing up", end) - 0.2

    def in_hands(action: str, when: np.ndarray) -> list[float]:
        return [
            float(prop.visibility[0]) for prop in MOTIONS[action](when, STEADY).props if prop.visibility is not None
        ]

    assert (in_hands("lifting a box", begin), in_hands("lifting a box", end)) == ([0, 1], [1, 0])
    assert (in_hands("putting down a box", begin), in_hands("putting down a box", end)) == ([1, 0], [0, 1])
    begin, end = begin * 1.8 / 2.4, end * 1.8 / 2.4
    assert (in_hands("throwing a ball", begin), in_hands("throwing a ball", end)) == ([1, 0], [0, 1])
    assert (in_hands("catching a ball", begin), in_hands("catching a ball", end)) == ([0, 1], [1, 0])


def test_twenty_actions_four_of_them_reserved() -> None:
    assert len(set(ACTIONS)) == 20
    assert list(MOTIONS) == list(ACTIONS)
    assert len(HELD_OUT_ACTIONS) == 4
    assert set(TRAIN_ACTIONS) | set(HELD_OUT_ACTIONS) == set(ACTIONS)
    assert not set(TRAIN_ACTIONS) & set(HELD_OUT_ACTIONS)
    assert ACTION_PARAPHRASES.keys() == set(ACTIONS)


def test_the_concept_set_is_of_these_actions() -> None:
    concepts = ConceptSet.load("playground")
    assert concepts.action_names == list(ACTIONS)
    assert bool(concepts.description_action_mask().any(0).all())
    trained = concepts.subset(TRAIN_ACTIONS)
    assert trained.action_names == list(TRAIN_ACTIONS)
    assert not {name for text in trained.descriptions for name in text.actions} & set(HELD_OUT_ACTIONS)
    assert 0 < len(trained.descriptions) < len(concepts.descriptions)


# Drawing.


def test_a_capsule_covers_its_area_and_nothing_else() -> None:
    image = np.zeros((1, 40, 60, 3), np.float32)
    a, b = np.array([[20, 20]], np.float32), np.array([[40, 20]], np.float32)
    draw_capsule(image, a, b, np.array([6], np.float32), np.array([1, 0.5, 0], np.float32))
    assert image[0, ..., 0].sum() == pytest.approx(20 * 12 + np.pi * 36, rel=0.01)
    np.testing.assert_allclose(image[0, 20, 30], [1, 0.5, 0])
    y, x = np.mgrid[:40, :60] + 0.5
    away = np.hypot(x - np.clip(x, 20, 40), y - 20)
    assert not image[0][away > 6.6].any()
    assert (image[0][away < 5.4] == [1, 0.5, 0]).all()


def test_a_capsule_outside_of_the_picture_or_not_shown_changes_nothing() -> None:
    image = np.full((2, 8, 8, 3), 0.5, np.float32)
    two = np.array([[-50, 4], [-50, 4]], np.float32)
    radius, white = np.full(2, 3, np.float32), np.ones(3, np.float32)
    draw_capsule(image, two, two, radius, white)
    assert (image == 0.5).all()
    middle = np.full((2, 2), 4, np.float32)
    draw_capsule(image, middle, middle, radius, white, np.array([0, 1], np.float32))
    assert (image[0] == 0.5).all()
    assert image[1].max() == 1


def test_cameras_see_their_centre_in_the_middle_and_up_as_up() -> None:
    camera = Camera(
        np.array([[1, 1]], np.float32), np.full(1, 10, np.float32), np.zeros(1, np.float32), horizontal_stretch=1.5
    )
    points = {"centre": [1, 1], "right": [2, 1], "above": [1, 2]}
    seen = {k: camera.project(np.array([v], np.float32), (64, 80), False)[0].tolist() for k, v in points.items()}
    assert seen == {"centre": [40, 32], "right": [55, 32], "above": [40, 22]}
    assert camera.project(np.array([[2, 1]], np.float32), (64, 80), True)[0].tolist() == [25, 32]


@pytest.mark.parametrize("scene", SCENES)
def test_a_mirrored_person_is_the_picture_mirrored(scene: str) -> None:
    pose, camera = MOTIONS["kicking a ball"](np.float32([0.3, 0.9]), STEADY), Camera.make_static(2, 48)
    plain, mirrored = (
        render_frames(pose, Appearance("red", "blue", SKIN_COLORS[0], scene, 1.0, side), camera, (48, 60))
        for side in (False, True)
    )
    assert plain.shape == (2, 48, 60, 3)
    assert 0 <= plain.min() <= plain.max() <= 1
    np.testing.assert_allclose(mirrored[:, :, ::-1], plain, atol=1e-4)
    assert np.abs(mirrored - plain).max() > 0.3
    assert np.abs(plain[0] - plain[1]).max() > 0.3  # the leg moved
    for colour in ("red", "blue"):  # clothes are in the picture, in their colours
        assert (np.abs(plain - np.array(COLORS[colour]) * 0.92).max(-1) < 0.09).any()


def test_film_without_faults_records_the_picture_and_each_fault_does_its_part() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(apply_camera_effects(image, PLAIN, rng), np.floor(image * 255 + 0.5).astype(np.uint8))
    dim = apply_camera_effects(image, CameraEffects((0, 0), (0, 0), (0, 0), (0.5, 0.5), (0, 0)), rng).astype(int)
    np.testing.assert_allclose(dim, image * 127.5, atol=0.51)
    grey = apply_camera_effects(
        image, CameraEffects((0, 0), (0, 0), (0, 0), (1, 1), (0, 0), desaturation=1.0), rng
    ).astype(int)
    assert np.ptp(grey, axis=-1).max() <= 1
    warm = apply_camera_effects(image, CameraEffects((0, 0), (0, 0), (0.1, 0.1), (0.8, 0.8), (0, 0)), rng).astype(float)
    assert warm[..., 0].mean() > 0.8 * 255 * image[..., 0].mean() * 1.05
    assert warm[..., 2].mean() < 0.8 * 255 * image[..., 2].mean() * 0.95
    grain = CameraEffects((0, 0), (0, 0), (0, 0), (1, 1), (0.05, 0.05))
    one, two, other = (apply_camera_effects(image, grain, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_softening_keeps_the_light_and_spreads_it() -> None:
    point = np.zeros((1, 9, 9, 3), np.float32)
    point[0, 4, 4] = 1
    soft = blur(point, 2)
    assert soft.sum() == pytest.approx(3, rel=1e-5)
    assert soft[0, 4, 4, 0] < 0.5
    assert soft[0, 4, 2, 0] > 0
    np.testing.assert_array_equal(blur(point, 0), point)


# Captioned stills.


def test_stills_are_a_function_of_their_seed() -> None:
    one, two, longer, other = (
        render_captioned_images(20, 5),
        render_captioned_images(20, 5),
        render_captioned_images(40, 5),
        render_captioned_images(20, 6),
    )
    assert one.images.shape == (20, 48, 48, 3)
    assert one.images.dtype == np.uint8
    np.testing.assert_array_equal(one.images, two.images)
    assert one.captions == two.captions == longer.captions[:20]
    np.testing.assert_array_equal(one.images, longer.images[:20])
    assert (one.images != other.images).any()
    assert longer.labels.tolist() == list(range(20)) * 2


def test_captions_name_their_action_and_no_other() -> None:
    stills = render_captioned_images(400, 11, size=8)
    named = 0
    for label, text in zip(stills.labels, stills.captions, strict=True):
        own = (ACTIONS[label], *ACTION_PARAPHRASES[ACTIONS[label]])
        named += any(words in text for words in own)
        rest = text.replace(ACTIONS[label], "")  # jumping is in "doing jumping jacks"
        others = [name for name in ACTIONS if name != ACTIONS[label] and name in rest]
        assert not others, text
    assert 0.75 < named / 400 < 0.95  # the rest say only what can be seen
    assert sum(ACTIONS[label] in text for label, text in zip(stills.labels, stills.captions, strict=True)) > 150


def test_captions_say_true_things_about_clothes_place_and_limbs() -> None:
    rng = np.random.default_rng(3)
    for index in range(200):
        action = ACTIONS[index % 20]
        pose = MOTIONS[action](np.array([rng.uniform(0, 2.4)], np.float32), Style.sample(rng))
        look = Appearance.sample(rng)
        text = make_caption(action, pose, look, rng)
        seen = {f"{colour} {what}" for colour in COLORS for what in ("shirt", "trousers") if f"{colour} {what}" in text}
        assert seen <= {f"{look.shirt} shirt", f"{look.trousers} trousers"}
        assert {place for place in SCENE_PHRASES.values() if place in text} <= {SCENE_PHRASES[look.scene]}
        said = visible_facts(pose)
        for claim in ("above the head", "on the floor", "seated on a chair", "in the hand", "feet off the ground"):
            words = [words for words in (action, *ACTION_PARAPHRASES[action]) if claim in words]
            assert claim not in text or words or any(claim in statement for statement in said)


def test_statements_are_read_off_the_joints() -> None:
    assert visible_facts(still_pose()) == ["arms hanging at the sides", "legs straight"]
    assert "both arms raised above the head" in visible_facts(still_pose(arm=[170, 180]))
    assert "one arm raised above the head" in visible_facts(still_pose(arm=[0, 180]))
    assert "both hands reaching forward" in visible_facts(still_pose(arm=[90, 90]))
    assert "the upper body folded forward" in visible_facts(still_pose(lean=60))
    assert "both feet off the ground" in visible_facts(still_pose(lift=0.2))
    assert "knees bent deeply" in visible_facts(still_pose(thigh=[80, 80], knee=[80, 80]))
    end = np.array([0.9 * 2.4], np.float32)
    assert "seated on a chair" in visible_facts(MOTIONS["sitting down"](end, STEADY))
    assert "a chair behind" in visible_facts(MOTIONS["standing up"](end, STEADY))
    assert "a box in the hands" in visible_facts(MOTIONS["lifting a box"](end, STEADY))
    assert "a box on the floor" in visible_facts(MOTIONS["putting down a box"](end, STEADY))


# The world.


def test_every_clip_is_h264_in_mp4_at_one_of_four_rates(world: Path) -> None:
    rates: Counter[int] = Counter()
    for path in sorted(world.rglob("*.mp4")):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert len(container.streams) == 1
            assert "mp4" in container.format.name.split(",")
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height) == (80, 64)
            assert stream.pix_fmt == "yuv420p"
            rate = int(stream.average_rate)
            count = sum(1 for _ in container.decode(stream))
        assert 2.0 * rate - 1 < count <= 3.2 * rate
        rates[rate] += 1
    assert rates.keys() == {8, 10, 12, 15}
    assert rates.total() == 116
    times = frame_times(path)
    assert len(times) == count
    np.testing.assert_allclose(np.diff(times), 1 / rate, atol=1e-3)


def test_written_frames_come_back(tmp_path: Path) -> None:
    frames, rate = render_video("waving", np.random.default_rng(0), DomainShift(camera_effects=PLAIN))
    write_clip(tmp_path / "clip.mp4", frames, rate, crf=12)
    read = decode_frames(tmp_path / "clip.mp4", None).permute(0, 2, 3, 1).numpy().astype(float)
    assert read.shape == frames.shape
    # Colour is stored at half the resolution, so compare brightness.
    assert np.abs(read.mean(-1) - frames.mean(-1)).mean() < 4
    assert np.abs(frames[0].astype(float) - frames[4]).mean() > 1  # and they move


def test_filming_fades_what_it_films() -> None:
    clear, faded = (
        render_video("bowing", np.random.default_rng(1), shift)[0].astype(float)
        for shift in (DomainShift(camera_effects=PLAIN), DomainShift())
    )
    assert clear.shape == faded.shape
    assert np.ptp(faded, axis=-1).mean() < 0.8 * np.ptp(clear, axis=-1).mean()  # colour
    assert faded.mean() < 0.9 * clear.mean()  # light


def test_a_clip_is_a_function_of_seed_split_and_place_alone(world: Path, tmp_path: Path) -> None:
    again = make_world(tmp_path / "again", WorldSettings(train=4, test=6), ("train", "test"), num_workers=1)
    for path in [*sorted((again / "test").rglob("*.mp4"))]:
        assert path.read_bytes() == (world / path.relative_to(again)).read_bytes()
    assert len(list(again.rglob("*.mp4"))) == 10
    other = make_world(tmp_path / "other", WorldSettings(seed=1, train=4, test=6), ("test",), num_workers=1)
    for path in (other / "test").rglob("*.mp4"):
        assert path.read_bytes() != (again / path.relative_to(other)).read_bytes()


def test_splits_share_no_clip_and_hold_what_they_should(world: Path) -> None:
    clips = read_tree(world)
    videos = [content for name, content in clips.items() if name.endswith(".mp4")]
    assert len(set(videos)) == len(videos) == 16 + 40 + 20 + 40
    assert not [name for name in clips if ".part" in name]
    for split, count in (("probe", 40), ("validation", 20), ("test", 40)):
        labels = Counter(record.label for record in read_manifest(world / split))
        assert labels == dict.fromkeys(ACTIONS, count // 20)
    assert json.loads(clips["world.json"])["seed"] == TINY_WORLD_SETTINGS.seed


def test_the_train_split_says_nothing_of_its_actions(world: Path) -> None:
    records = read_manifest(world / "train")
    assert [record.path.name for record in records] == [f"{i:05d}.mp4" for i in range(16)]
    assert {record.label for record in records} == {None}
    content = b"".join(record.path.read_bytes() for record in records)
    assert not [name for name in ACTIONS if name.encode() in content]
    truth = (world / "truth" / "train.csv").read_text().splitlines()
    assert truth == [f"{i:05d}.mp4,{action}" for i, action in enumerate(split_actions(TINY_WORLD_SETTINGS, "train"))]


@pytest.mark.parametrize("long_tail", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_reserved_actions_are_in_every_split_but_train(seed: int, long_tail: bool) -> None:
    settings = WorldSettings(seed=seed, long_tail=long_tail)
    train = split_actions(settings, "train")
    assert len(train) == 640
    assert set(train) == set(TRAIN_ACTIONS)
    for split in ("probe", "validation", "test"):
        assert set(split_actions(settings, split)) == set(ACTIONS)


def test_the_long_tail_is_eight_to_one_and_the_plain_split_even() -> None:
    even = Counter(split_actions(WorldSettings(), "train"))
    assert set(even.values()) == {40}
    long = Counter(split_actions(WorldSettings(long_tail=True), "train"))
    sizes = [size for _, size in long.most_common()]
    assert 7 <= sizes[0] / sizes[-1] <= 9
    assert all(0.7 < small / large <= 1 for large, small in pairwise(sizes))
    other = Counter(split_actions(WorldSettings(seed=1, long_tail=True), "train"))
    assert long.most_common(1)[0][0] != other.most_common(1)[0][0]  # which is frequent is a matter of chance


def test_a_finished_split_is_kept_and_one_that_lacks_a_clip_is_filmed_anew(world: Path, tmp_path: Path) -> None:
    settings = WorldSettings(train=4, test=6)
    told: list[tuple[int, int]] = []
    folder = make_world(
        tmp_path / "w", settings, ("train", "test"), on_clip=lambda *done: told.append(done), num_workers=1
    )
    assert told == [(done, 10) for done in range(1, 11)]
    before = read_tree(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    told.clear()
    make_world(folder, settings, ("train", "test"), on_clip=lambda *done: told.append(done), num_workers=1)
    assert not told
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == stamps
    (folder / "test" / "squatting" / "00003.mp4").unlink()
    make_world(folder, settings, ("train", "test"), on_clip=lambda *done: told.append(done), num_workers=1)
    assert told == [(done, 6) for done in range(1, 7)]
    assert read_tree(folder) == before
    assert (folder / "train" / "00000.mp4").stat().st_mtime_ns == stamps[folder / "train" / "00000.mp4"]


def test_a_world_of_other_settings_is_refused_and_left_alone(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(world, folder)
    before = read_tree(folder)
    for other in (WorldSettings(seed=1, train=16, probe=40, validation=20, test=40), WorldSettings()):
        with pytest.raises(ValueError, match=r"world\.json describes a world of other settings; remove the folder"):
            make_world(folder, other)
    assert read_tree(folder) == before


def test_interrupted_filming_leaves_nothing_half_made_and_goes_on(world: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    settings = WorldSettings(train=4, test=6)
    folder = tmp_path / "w"
    with pytest.raises(KeyboardInterrupt):
        make_world(folder, settings, ("train", "test"), on_clip=stop, num_workers=1)
    assert len(list((folder / "train").glob("*.mp4"))) == 4
    assert not (folder / "test").exists()
    make_world(folder, settings, ("train", "test"), num_workers=1)
    assert not list(folder.rglob("*.part"))
    assert len(list((folder / "test").rglob("*.mp4"))) == 6
    for path in (folder / "test").rglob("*.mp4"):
        assert path.read_bytes() == (world / path.relative_to(folder)).read_bytes()


def test_a_clip_that_breaks_off_does_not_replace_what_is_there(tmp_path: Path) -> None:
    class Torn:
        shape = (8, 64, 80, 3)

        def __iter__(self):
            yield from np.zeros((3, 64, 80, 3), np.uint8)
            raise KeyboardInterrupt

    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt):
        write_clip(path, Torn(), 8, 28)  # type: ignore[arg-type]
    assert not path.exists()
    path.write_bytes(b"as it was")
    with pytest.raises(KeyboardInterrupt):
        write_clip(path, Torn(), 8, 28)  # type: ignore[arg-type]
    assert path.read_bytes() == b"as it was"


# The small CLIP.


def test_the_shipped_clip_is_a_plain_small_half_precision_folder() -> None:
    folder = BUNDLED_CHECKPOINTS["playground"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {"F16"}
    assert not [path for path in folder.iterdir() if path.suffix not in (".json", ".safetensors")]
    model, found = CLIPModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert zero_shot_accuracy(model, CLIPTokenizer.from_pretrained(folder), render_captioned_images(300, 31_337)) >= 0.6


def test_the_shipped_clip_loads_by_name_without_a_network_and_knows_fresh_stills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = VideoEncoder.from_pretrained("playground")
    assert encoder.config.base_name == "playground"
    assert (encoder.image_size, encoder.patch_size, encoder.embedding_dim) == (48, 8, 96)
    assert encoder.image_mean.tolist() == IMAGE_MEAN
    stills = render_captioned_images(300, 31_337)
    z = encoder.encode_video(torch.from_numpy(stills.images).permute(0, 3, 1, 2)[:, None], batch_size=100)
    space = encoder.build_concept_space(ConceptSet.load("playground"))
    for by in ("category", "both"):
        hits = zero_shot_scores(z, space, by).argmax(1).numpy() == stills.labels
        assert hits.mean() >= 0.6


def test_pixels_are_normalised_as_the_folder_says() -> None:
    settings = json.loads((BUNDLED_CHECKPOINTS["playground"] / "preprocessor_config.json").read_text())
    assert (settings["image_mean"], settings["image_std"]) == (IMAGE_MEAN, IMAGE_STD)
    image = np.zeros((1, 2, 3, 3), np.uint8)
    image[0, 1, 2] = (255, 51, 0)
    found = to_pixel_values(image)
    assert found.shape == (1, 3, 2, 3)
    torch.testing.assert_close(found[0, :, 1, 2], torch.tensor([2.0, -1.2, -2.0]))


def test_a_tokenizer_of_captions_writes_any_text() -> None:
    tokenizer = train_tokenizer(render_captioned_images(60, 0, size=8).captions, vocabulary=100)
    for text in ("a photo of a person waving", "Ünïcode, 走る & <script>"):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        plain = tokenizer.decode(ids, skip_special_tokens=True)
        assert plain.replace(" ", "") == text.lower().replace(" ", "")
    words = tokenizer.tokenize("a person waving")
    assert len(words) < len("a person waving")  # it has learned to join letters


def test_a_saved_clip_comes_back_through_the_encoder(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(render_captioned_images(60, 0, size=8).captions, vocabulary=100)
    torch.manual_seed(0)
    model = build_clip_model(tokenizer).eval()
    assert 0.8e6 < sum(p.numel() for p in model.parameters()) < 1.3e6
    stills = render_captioned_images(5, 1)
    save_clip_model(model, tokenizer, tmp_path)
    encoder = VideoEncoder.from_pretrained(tmp_path)
    with torch.no_grad():
        features = model.float().get_image_features(pixel_values=to_pixel_values(stills.images)).pooler_output
    z = encoder.encode_video(torch.from_numpy(stills.images).permute(0, 3, 1, 2)[:, None])
    torch.testing.assert_close(z, torch.nn.functional.normalize(features, dim=-1), atol=1e-5, rtol=1e-4)
