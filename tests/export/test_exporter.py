import json
import re
import resource
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoImageProcessor, CLIPConfig, CLIPModel
from typer.testing import CliRunner

from support.small_encoders import TINY_CHECKPOINTS, random_fit, random_times, random_video, with_random_temporal
from support.video_files import numbered_frames, write_video
from verbspace.cli.main import app
from verbspace.concepts.concept_set import Action, ConceptSet, Description, Provenance
from verbspace.data.sources.record import Record
from verbspace.evaluation.evaluate import evaluate
from verbspace.export import exporter as module
from verbspace.export.accuracy_check import ExportedEncoder
from verbspace.export.exporter import export
from verbspace.export.formats import quantize_tower
from verbspace.export.parity import ParityStats
from verbspace.inference.embedding import embed_videos
from verbspace.inference.predictor import predict
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

TEXTS = ["a video of a person waving", "up"]
SIZES = [(1, 1), (3, 1), (1, 2), (2, 3), (1, 8), (2, 13)]


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> VideoEncoder:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[0, 2]))
    encoder.concept_set = ConceptSet(
        name="two moves",
        actions=[Action(name="waving"), Action(name="jumping")],
        descriptions=[Description(text="both hands up", kind="pose", actions=["waving"])],
        provenance=Provenance(author="Ada Example"),
    )
    return encoder


@pytest.fixture(scope="module")
def exported(clip: VideoEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with a concept set, exported to ONNX with int8."""
    folder = tmp_path_factory.mktemp("exported") / "clip"
    export(clip, folder, int8=True)
    return folder


def run_tower(folder: Path, tower: str, **inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(folder / f"{tower}.onnx")
    return torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0])


def onnx_towers(folder: Path) -> list[Any]:
    return [partial(run_tower, folder, name) for name in ("video", "text")]


@torch.no_grad()
def assert_towers_match(encoder: VideoEncoder, video: Any, text: Any) -> None:
    """Compare towers with the encoder, for all of SIZES, and for TEXTS in a batch and alone."""
    size = encoder.image_size
    for clips, frames in SIZES:
        pixels = random_video(clips, frames, 3, size, size, seed=frames)
        times = random_times(clips, frames, seed=clips)
        expected = encoder(pixels, times)
        torch.testing.assert_close(video(pixel_values_videos=pixels, times=times), expected, atol=1e-5, rtol=0)
        if frames > 1 and len(encoder.temporal):  # depends on the times, not on frame indices
            other = video(pixel_values_videos=pixels, times=times * 3)
            assert (other - expected).abs().max() > 1e-4
            torch.testing.assert_close(other, encoder(pixels, times * 3), atol=1e-5, rtol=0)
    for texts in (TEXTS, TEXTS[1:]):
        tokens = encoder.require_processor().tokenize(texts)
        torch.testing.assert_close(text(**tokens), encoder.encode_text(texts), atol=1e-5, rtol=0)


@pytest.mark.parametrize("export_format", [pytest.param("onnx", marks=pytest.mark.slow), "torch"])
def test_a_full_disk_is_one_sentence(export_format: str, clip: VideoEncoder, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"out: cannot write: .*; choose another path or free space there$"):
            export(clip, tmp_path / "out", export_format)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


# MetaCLIP 2 has the architecture of CLIP, SigLIP that of SigLIP 2, whose tests follow, with another tokenizer.
@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in TINY_CHECKPOINTS if name not in ("tiny_clip", "tiny_siglip2")])
def test_onnx_of_other_families(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(request.getfixturevalue(family), temporal_layers=[1]))
    manifest = export(encoder, tmp_path / "out")
    assert manifest["parity"]["video"]["largest"] < 1e-5
    assert_towers_match(encoder, *onnx_towers(tmp_path / "out"))
    run_readme(tmp_path / "out", encoder)


def test_onnx_of_naflex_takes_squares(tiny_siglip2: Path, tmp_path: Path) -> None:
    """The towers take squares, and the manifest and the processor say that whole frames are squashed."""
    encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_siglip2, temporal_layers=[1]))
    assert encoder.preprocessing.resize == "keep_aspect"
    for label, frames in (("waving", numbered_frames(12, 36, 64)), ("jumping", numbered_frames(12, 64, 36, seed=1))):
        write_video(tmp_path / "videos" / label / "clip.mp4", frames)
    manifest = export(encoder, tmp_path / "out", eval_data=tmp_path / "videos")
    assert manifest["parity"]["video"]["largest"] < 1e-5
    assert_towers_match(encoder, *onnx_towers(tmp_path / "out"))
    run_readme(tmp_path / "out", encoder)
    assert manifest["inputs"]["video"]["pixel_values_videos"]["shape"] == ["batch", "frames", 3, 32, 32]
    assert manifest["pixels"]["resize"] == "squash"
    assert (
        "Resize\nwhole frames to a square (bilinear, with antialiasing)" in (tmp_path / "out" / "README.md").read_text()
    )
    frames = torch.from_numpy(numbered_frames(2, 36, 64)).permute(0, 3, 1, 2)
    images = [frame.permute(1, 2, 0).numpy() for frame in frames]
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")(images=images, return_tensors="pt")
    expected = encoder.normalize(encoder.preprocessing.to_square().apply(frames)[0])
    assert pixels["pixel_values"].shape == expected.shape == (2, 3, 32, 32)
    assert 127.5 * (pixels["pixel_values"] - expected).abs().max() < 2.01


def test_onnx_of_clip(clip: VideoEncoder, exported: Path) -> None:
    assert_towers_match(clip, *onnx_towers(exported))
    for name in ("video", "text"):
        onnx.checker.check_model(exported / f"{name}.onnx")
    run_readme(exported, clip)


@pytest.mark.slow
def test_without_temporal_attention(tiny_clip: Path, tmp_path: Path) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    export(encoder, tmp_path / "out")
    assert_towers_match(encoder, *onnx_towers(tmp_path / "out"))


def test_files_written(clip: VideoEncoder, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} >= {
        "video.onnx", "text.onnx", "video_int8.onnx", "text_int8.onnx", "verbspace.json", "README.md",
        "tokenizer.json", "preprocessor_config.json", "concept_space.safetensors",
    }  # fmt: skip
    manifest = json.loads((exported / "verbspace.json").read_text())
    assert manifest["encoder"] == {"hash": encoder_hash(clip), "family": "clip", "temporal_layers": [0, 2]}
    assert manifest["inputs"]["video"]["pixel_values_videos"]["shape"] == ["batch", "frames", 3, 32, 32]
    opset = {entry.domain: entry.version for entry in onnx.load(exported / "video.onnx").opset_import}
    assert manifest["opset"] == opset[""]
    for name, size in manifest["bytes"].items():
        assert (exported / name).stat().st_size == size
    processor = json.loads((exported / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == manifest["pixels"]["mean"] == clip.require_processor().image_mean
    assert processor["size"] == {"shortest_edge": 32}
    assert clip.concept_set is not None
    space = clip.build_concept_space(clip.concept_set)
    vectors = load_file(exported / manifest["concepts"]["file"])
    assert torch.equal(vectors["categories"], space.categories)
    assert torch.equal(vectors["ownership"], space.description_action_mask)
    assert manifest["concepts"]["categories"] == ["waving", "jumping"]
    assert manifest["concepts"]["descriptions"] == ["both hands up"]
    assert manifest["concepts"]["temperature"] == pytest.approx(1 / clip.logit_scale)
    # Each tower contains only its weights.
    video = sum(p.numel() for p in (*clip.temporal_parameters(), *clip.spatial_parameters()))
    for name, expected in (("video", video), ("text", sum(p.numel() for p in clip.parameters()) - video)):
        num_weights = sum(int(np.prod(entry.dims)) for entry in onnx.load(exported / f"{name}.onnx").graph.initializer)
        assert expected * 0.95 < num_weights < expected * 1.05


def test_int8(clip: VideoEncoder, exported: Path) -> None:
    types = {node.op_type for node in onnx.load(exported / "video_int8.onnx").graph.node}
    assert "MatMulInteger" in types
    pixels, times = random_video(2, 4, 3, 32, 32), random_times(2, 4)
    quantized = run_tower(exported, "video_int8", pixel_values_videos=pixels, times=times)
    with torch.no_grad():
        cosines = (quantized * clip(pixels, times)).sum(1)
    assert 0.99 < cosines.min() < 0.9999999  # close, but not equal
    stats = json.loads((exported / "verbspace.json").read_text())["int8"]["video"]
    assert 0.99 < stats["least_cosine"] <= stats["mean_cosine"] < 1
    assert (exported / "video_int8.onnx").stat().st_size < (exported / "video.onnx").stat().st_size


def test_fitted_actions_of_other_concepts(clip: VideoEncoder, tmp_path: Path) -> None:
    fitted = random_fit(clip, ConceptSet.from_actions(["waving", "bowing"]))
    with pytest.raises(ValueError, match="the vectors were fitted for concepts"):  # the encoder's own set
        export(clip, tmp_path / "out", fitted=fitted)


def run_readme(folder: Path, encoder: VideoEncoder) -> None:
    """Run the program of the README in the folder, and compare its embeddings with the encoder's."""
    text = (folder / "README.md").read_text()
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert program is not None
    assert "verbspace" not in "".join(re.findall(r"^(?:import|from) .*", program[1], re.MULTILINE))
    after = "\nimport sys\nnp.savez(sys.argv[1], frames=frames, times=times, videos=videos, texts=texts)\n"
    found = folder.parent / "found.npz"
    process = subprocess.run(
        [sys.executable, "-c", program[1] + after, found], cwd=folder, capture_output=True, text=True, check=False
    )
    assert not process.returncode, process.stderr
    arrays = np.load(found)
    videos = encoder.encode_video(arrays["frames"], torch.from_numpy(arrays["times"]).float())
    np.testing.assert_allclose(arrays["videos"], videos, atol=1e-5)
    texts = encoder.encode_text(["a video of a person waving", "a video of a person jumping"])
    np.testing.assert_allclose(arrays["texts"], texts, atol=1e-5)


def test_tower_too_large_for_int8(tmp_path: Path) -> None:
    (tmp_path / "video.onnx.data").write_bytes(b"")
    with pytest.raises(ValueError, match="int8: the video tower is above 2 GB"):
        quantize_tower(tmp_path / "video.onnx")


def test_torch_export_programs(clip: VideoEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "video.onnx").write_text("of an earlier export")
    (folder / "mine.txt").write_text("mine")
    export(clip, folder, "torch")
    names = {path.name for path in folder.iterdir()}
    assert "video.onnx" not in names
    assert {"mine.txt", "video.pt2"} <= names
    towers = [torch.export.load(folder / f"{name}.pt2").module(check_guards=False) for name in ("video", "text")]
    assert_towers_match(clip, *towers)
    for name in ("video", "text"):  # no pickled example inputs or weights
        with zipfile.ZipFile(folder / f"{name}.pt2") as archive:
            assert not [
                entry.filename for entry in archive.infolist() if entry.filename.endswith(".pt") and entry.file_size
            ]
    run_readme(folder, clip)
    manifest = json.loads((folder / "verbspace.json").read_text())
    assert (manifest["format"], manifest["opset"]) == ("torch", None)


@torch.no_grad()
@pytest.mark.parametrize(("deviation", "shown"), [(2e-4, r"0\.0002"), (float("nan"), "nan")])
def test_deviating_tower_is_not_written(
    deviation: float, shown: str, clip: VideoEncoder, tmp_path: Path, monkeypatch: Any
) -> None:
    names = {"video": {"pixel_values_videos": {}, "times": {}}, "text": {"input_ids": {}}}
    towers = [SimpleNamespace(name=name, inputs=inputs) for name, inputs in names.items()]
    monkeypatch.setattr(module, "trace_towers", lambda *_: towers)
    monkeypatch.setattr(module, "write_tower", lambda tower, form, path: path.write_bytes(b"a tower"))
    monkeypatch.setattr(module, "load_tower", lambda path: lambda inputs: clip(**inputs) + deviation)
    with pytest.raises(ValueError, match=rf"the exported video tower differs from the encoder by {shown}, more than"):
        export(clip, tmp_path / "out", "torch")
    assert not list(tmp_path.iterdir())


def test_unrelated_files_are_not_overwritten(clip: VideoEncoder, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"contains a README.md that is not of an export; choose another folder"):
        export(clip, tmp_path, export_format="torch")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "mine"}


def test_parity_stats() -> None:
    a = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    same = ParityStats.from_pairs([(a, a)])
    assert (same.largest, same.n) == (0, 4)
    assert same.least_cosine == pytest.approx(1, abs=1e-6)
    b = a.clone()
    b[2, 3] += 0.25
    assert ParityStats.from_pairs([(a, b), (a, a)]).largest == pytest.approx(0.25)
    assert ParityStats.from_pairs([(a, -a), (a, a)]).mean_cosine == pytest.approx(0, abs=1e-6)
    assert np.isnan(ParityStats.from_pairs([(a, a), (a * float("nan"), a), (a, a)]).largest)


def test_invalid_options(clip: VideoEncoder, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ValueError, match="format: 'tflite' is not supported; use onnx or torch"):
        export(clip, tmp_path / "out", "tflite")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="int8: only for the format onnx"):
        export(clip, tmp_path / "out", "torch", int8=True)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"pip install 'verbspace\[export\]'"):
        export(clip, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_export_command_with_fitted_actions_and_eval_data(clip: VideoEncoder, tmp_path: Path) -> None:
    """The exported program, run without verbspace, answers as `predict --fitted` does."""
    for number in range(6):
        name = f"{'waving' if number % 2 else 'jumping'}/{number}.mp4"
        write_video(tmp_path / "clips" / name, numbered_frames(12, seed=number))
    concepts = ConceptSet.from_actions(["waving", "jumping", "bowing"])
    fitted = random_fit(clip, concepts)
    fitted.save(tmp_path / "fitted.safetensors")
    concepts.save(tmp_path / "concepts.json")
    clip.save_pretrained(tmp_path / "encoder")
    expected = evaluate(clip, tmp_path / "clips", concepts=concepts, fitted=fitted, baseline=False).result
    encoder, out, clips = (str(tmp_path / name) for name in ("encoder", "out", "clips"))
    command = ["export", "--encoder", encoder, "--out", out, "--int8", "--eval-data", clips]
    command += ["--concepts", str(tmp_path / "concepts.json"), "--fitted", str(tmp_path / "fitted.safetensors")]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    assert "video: largest difference from the encoder" in found.output
    manifest = json.loads((tmp_path / "out" / "verbspace.json").read_text())
    check = manifest["check"]
    assert check["full"] == {"top1": expected.top1, "ci95": list(expected.ci95), "n": 6, "unreadable": 0}
    assert check["int8"]["n"] == 6
    assert 0.99 < check["int8"]["video"]["least_cosine"] < 0.9999999
    for name, top1 in (("fp32", expected.top1), ("int8", check["int8"]["top1"])):
        assert f"{name}: top-1 {100 * top1:.1f}% (95%" in found.output
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "Top-1 of the fitted actions on 6 labeled videos (clips, 3 actions" in readme
    assert "fitted to 6 labeled clips; they are for clips of 8 frames" in readme
    assert manifest["concepts"]["fitted"] == {"clips": 6, "frames": 8}

    names, vectors = concepts.action_names, load_file(tmp_path / "out" / manifest["concepts"]["file"])["categories"]
    assert manifest["concepts"]["categories"] == names
    files = sorted(Path(clips).rglob("*.mp4"))[:3]
    exported = ExportedEncoder(clip, lambda inputs: run_tower(tmp_path / "out", "video", **inputs))
    z = embed_videos(exported, [Record(file) for file in files]).embeddings
    probabilities = (z @ vectors.T / manifest["concepts"]["temperature"]).softmax(1).tolist()
    answers, by_text = predict(clip, files, concepts=concepts, fitted=fitted), predict(clip, files, concepts=concepts)
    for found, answer, text_answer in zip(probabilities, answers, by_text, strict=True):
        assert dict(zip(names, found, strict=True)) == pytest.approx(dict(answer.ranking), abs=1e-4)
        assert dict(text_answer.ranking) != pytest.approx(dict(answer.ranking), abs=1e-2)


@pytest.mark.slow
def test_vit_b16(tiny_clip: Path, tmp_path: Path) -> None:
    """ViT-B/16 with random weights, 12 layers of temporal attention."""
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={"max_position_embeddings": 40, "vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513},
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 16,
        },
    )  # fmt: skip
    folder = tmp_path / "clip"
    CLIPModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((tiny_clip / name).read_bytes())
    encoder = with_random_temporal(VideoEncoder.from_pretrained(folder))
    manifest = export(encoder, tmp_path / "out", int8=True)
    print(json.dumps({name: manifest[name] for name in ("parity", "int8", "bytes")}, indent=1))
    assert manifest["parity"]["video"]["largest"] < 1e-5
    assert manifest["int8"]["video"]["least_cosine"] > 0.98
