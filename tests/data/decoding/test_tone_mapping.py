"""HDR video becomes SDR: values of the standards, and pictures that were SDR before."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from support.hdr_files import TRANSFERS, as_hdr, write_hdr
from support.video_files import numbered_frames, read_frame_numbers, write_video
from verbspace.cli import main
from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import decode_frames
from verbspace.data.decoding.tone_mapping import (
    compress_light,
    hlg_to_scene_light,
    light_to_pq,
    pq_to_light,
    to_sdr,
)


def test_the_functions_have_the_values_of_the_standards() -> None:
    # ITU-R BT.2408-7, table 1: signal in %, and cd/m² on a display of 1000 cd/m².
    for nits, pq, hlg in [(26, 0.38, 0.38), (203, 0.58, 0.75), (1000, 0.75, 1.0)]:
        assert float(light_to_pq(np.array(nits))) == pytest.approx(pq, abs=0.005)
        assert float(pq_to_light(light_to_pq(np.array(nits)))) == pytest.approx(nits)
        light = 1000 * float(hlg_to_scene_light(np.array(hlg))) ** 1.2
        assert light == pytest.approx(nits, rel=0.03)
    assert float(pq_to_light(np.array(1.0))) == pytest.approx(10_000)


def test_the_compression_keeps_dark_light_and_ends_at_white() -> None:
    light = np.linspace(0.01, 1000, 500)
    mapped = compress_light(light, peak=1000, white=203)
    assert (np.diff(mapped) > 0).all()
    np.testing.assert_allclose(mapped[light < 40], light[light < 40], rtol=1e-6)
    assert mapped[-1] == pytest.approx(203)
    assert (mapped <= light + 1e-9).all()


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize(("white", "tolerance"), [(100, 2.0), (203, 14.0)])
def test_an_sdr_picture_in_an_hdr_signal_comes_back(transfer: str, white: float, tolerance: float) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    found = to_sdr(as_hdr(rgb, transfer, white), transfer)
    assert np.abs(found.astype(float) - rgb).mean() < tolerance


def gray_frames() -> np.ndarray:
    return numbered_frames(6).mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8)


@pytest.mark.parametrize("transfer", TRANSFERS)
def test_hdr_videos_are_decoded_as_sdr_and_named(tmp_path: Path, transfer: str) -> None:
    (tmp_path / "videos").mkdir()
    path = write_hdr(tmp_path / "videos/a.mp4", gray_frames(), transfer)
    frames = decode_frames(path).permute(0, 2, 3, 1).numpy()
    assert frames.dtype == np.uint8
    assert read_frame_numbers(frames.transpose(0, 3, 1, 2)) == list(range(6))
    assert np.abs(frames.astype(float) - gray_frames()).mean() < 3
    assert probe(path).hdr == transfer
    output = CliRunner().invoke(main.app, ["data", "info", str(path.parent)], env={"COLUMNS": "150"}).stdout
    assert f"HDR ({transfer}), mapped to SDR" in output


def test_sdr_videos_are_not_named(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mkv", numbered_frames(3), "libx265", pix_fmt="yuv420p10le", **{"x265-params": "log-level=none"}
    )
    assert probe(path).hdr is None


def has_zscale() -> bool:
    try:
        filters = subprocess.run(["ffmpeg", "-hide_banner", "-filters"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return " zscale " in filters.stdout


@pytest.mark.skipif(not has_zscale(), reason="needs an ffmpeg with zscale")
@pytest.mark.parametrize(("transfer", "name"), [("HLG", "arib-std-b67"), ("PQ", "smpte2084")])
def test_videos_that_zscale_made_hdr_have_their_colors(tmp_path: Path, transfer: str, name: str) -> None:
    original = write_video(tmp_path / "sdr.mp4", numbered_frames(6, 96, 128), crf="4")
    tags = "tin=bt709:pin=bt709:min=smpte170m:rin=tv"
    command = f"zscale={tags}:t={name}:p=bt2020:m=bt2020nc,format=yuv420p10le"
    encoder = f"log-level=none:colorprim=bt2020:transfer={name}:colormatrix=bt2020nc"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", original, "-vf", command, "-c:v", "libx265", "-x265-params", encoder,
         "-crf", "4", tmp_path / "hdr.mp4"],
        check=True,
    )  # fmt: skip
    before, after = decode_frames(original).float(), decode_frames(tmp_path / "hdr.mp4").float()
    assert float((before - after).abs().mean()) < 6
