import json
import multiprocessing
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from support.playground_files import PLAIN, TINY_WORLD_SETTINGS, read_tree
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.sources.manifest import read_manifest
from verbspace.playground.actions import ACTIONS, TRAIN_ACTIONS
from verbspace.playground.world import (
    DEGRADED_EFFECTS,
    WorldSettings,
    list_split_actions,
    make_world,
    render_video,
    write_clip,
)


def test_clips_are_h264_mp4_at_four_frame_rates(world: Path) -> None:
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


def test_written_frames_can_be_decoded(tmp_path: Path) -> None:
    frames, rate = render_video("waving", np.random.default_rng(0), PLAIN)
    write_clip(tmp_path / "clip.mp4", frames, rate, crf=12)
    read = decode_frames(tmp_path / "clip.mp4", None).permute(0, 2, 3, 1).numpy().astype(float)
    assert read.shape == frames.shape
    # Color is stored at half the resolution, so compare brightness.
    assert np.abs(read.mean(-1) - frames.mean(-1)).mean() < 4
    assert np.abs(frames[0].astype(float) - frames[4]).mean() > 1  # and they move


def test_camera_effects_reduce_color_and_brightness() -> None:
    clear, faded = (
        render_video("bowing", np.random.default_rng(1), effects)[0].astype(float)
        for effects in (PLAIN, DEGRADED_EFFECTS)
    )
    assert clear.shape == faded.shape
    assert np.ptp(faded, axis=-1).mean() < 0.8 * np.ptp(clear, axis=-1).mean()  # color
    assert faded.mean() < 0.9 * clear.mean()  # light


def test_clip_depends_on_seed_split_and_index_only(world: Path, tmp_path: Path) -> None:
    again = make_world(tmp_path / "again", WorldSettings(train=4, test=6), ("train", "test"), num_workers=1)
    for path in [*sorted((again / "test").rglob("*.mp4"))]:
        assert path.read_bytes() == (world / path.relative_to(again)).read_bytes()
    assert len(list(again.rglob("*.mp4"))) == 10
    other = make_world(tmp_path / "other", WorldSettings(seed=1, train=4, test=6), ("test",), num_workers=1)
    for path in (other / "test").rglob("*.mp4"):
        assert path.read_bytes() != (again / path.relative_to(other)).read_bytes()


def test_splits_are_disjoint_and_balanced(world: Path) -> None:
    clips = read_tree(world)
    videos = [content for name, content in clips.items() if name.endswith(".mp4")]
    assert len(set(videos)) == len(videos) == 16 + 40 + 20 + 40
    assert not [name for name in clips if ".part" in name]
    for split, count in (("probe", 40), ("validation", 20), ("test", 40)):
        labels = Counter(record.label for record in read_manifest(world / split))
        assert labels == dict.fromkeys(ACTIONS, count // 20)
    assert json.loads(clips["world.json"])["seed"] == TINY_WORLD_SETTINGS.seed


def test_train_split_does_not_reveal_labels(world: Path) -> None:
    records = read_manifest(world / "train")
    assert [record.path.name for record in records] == [f"{i:05d}.mp4" for i in range(16)]
    assert {record.label for record in records} == {None}
    content = b"".join(record.path.read_bytes() for record in records)
    assert not [name for name in ACTIONS if name.encode() in content]
    labels = (world / "labels" / "train.csv").read_text().splitlines()
    assert labels == [
        f"{i:05d}.mp4,{action}" for i, action in enumerate(list_split_actions(TINY_WORLD_SETTINGS, "train"))
    ]


@pytest.mark.parametrize("long_tail", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_held_out_actions_are_in_every_split_except_train(seed: int, long_tail: bool) -> None:
    settings = WorldSettings(seed=seed, long_tail=long_tail)
    train = list_split_actions(settings, "train")
    assert len(train) == 640
    assert set(train) == set(TRAIN_ACTIONS)
    for split in ("probe", "validation", "test"):
        assert set(list_split_actions(settings, split)) == set(ACTIONS)


def test_long_tail_is_eight_to_one_and_default_is_uniform() -> None:
    even = Counter(list_split_actions(WorldSettings(), "train"))
    assert set(even.values()) == {40}
    long = Counter(list_split_actions(WorldSettings(long_tail=True), "train"))
    sizes = [size for _, size in long.most_common()]
    assert 7 <= sizes[0] / sizes[-1] <= 9
    assert all(0.7 < small / large <= 1 for large, small in pairwise(sizes))
    other = Counter(list_split_actions(WorldSettings(seed=1, long_tail=True), "train"))
    assert long.most_common(1)[0][0] != other.most_common(1)[0][0]  # the seed decides which one is frequent


def test_complete_split_is_kept_and_incomplete_split_is_rendered_again(world: Path, tmp_path: Path) -> None:
    settings = WorldSettings(train=4, test=6)
    events: list[tuple] = []
    folder = make_world(
        tmp_path / "w", settings, ("train", "test"), on_progress=lambda *event: events.append(event), num_workers=1
    )
    assert events == [("render clips", done, 10, {}) for done in range(1, 11)]
    before = read_tree(folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    events.clear()
    make_world(folder, settings, ("train", "test"), on_progress=lambda *event: events.append(event), num_workers=1)
    assert not events
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == stamps
    (folder / "test" / "squatting" / "00003.mp4").unlink()
    make_world(folder, settings, ("train", "test"), on_progress=lambda *event: events.append(event), num_workers=1)
    assert events == [("render clips", done, 6, {}) for done in range(1, 7)]
    assert read_tree(folder) == before
    assert (folder / "train" / "00000.mp4").stat().st_mtime_ns == stamps[folder / "train" / "00000.mp4"]


def test_world_with_other_settings_is_rejected_and_unchanged(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    shutil.copytree(world, folder)
    before = read_tree(folder)
    for other in (WorldSettings(seed=1, train=16, probe=40, validation=20, test=40), WorldSettings()):
        with pytest.raises(
            ValueError, match=r"world\.json: the folder holds a world with other settings; remove the folder"
        ):
            make_world(folder, other)
    assert read_tree(folder) == before


def test_interrupted_rendering_leaves_no_partial_split_and_resumes(world: Path, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, values: object) -> None:
        if done == 6:
            raise KeyboardInterrupt

    settings = WorldSettings(train=4, test=6)
    folder = tmp_path / "w"
    with pytest.raises(KeyboardInterrupt):
        make_world(folder, settings, ("train", "test"), on_progress=stop, num_workers=1)
    assert len(list((folder / "train").glob("*.mp4"))) == 4
    assert not (folder / "test").exists()
    assert not list(folder.rglob("*.part"))
    make_world(folder, settings, ("train", "test"), num_workers=1)
    assert not list(folder.rglob("*.part"))
    assert len(list((folder / "test").rglob("*.mp4"))) == 6
    for path in (folder / "test").rglob("*.mp4"):
        assert path.read_bytes() == (world / path.relative_to(folder)).read_bytes()


def test_killed_render_process_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    def kill(stage: str, done: int, total: int, values: object) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(RuntimeError, match=r"w: a process that renders clips could not start or was killed, .*again$"):
        make_world(tmp_path / "w", WorldSettings(train=24), ("train",), on_progress=kill, num_workers=1)
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["labels", "world.json"]


def test_failed_write_keeps_the_existing_clip(tmp_path: Path) -> None:
    class BrokenFrames:
        shape = (8, 64, 80, 3)

        def __iter__(self):
            yield from np.zeros((3, 64, 80, 3), np.uint8)
            raise KeyboardInterrupt

    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt):
        write_clip(path, BrokenFrames(), 8, 28)  # type: ignore[arg-type]
    assert not path.exists()
    path.write_bytes(b"as it was")
    with pytest.raises(KeyboardInterrupt):
        write_clip(path, BrokenFrames(), 8, 28)  # type: ignore[arg-type]
    assert path.read_bytes() == b"as it was"
