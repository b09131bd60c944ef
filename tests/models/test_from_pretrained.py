"""Loading image checkpoints and saved encoders, and the errors of broken ones."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from support.small_encoders import embed_random_clips
from verbspace.models.video_encoder import VideoEncoder


def test_run_folder_loads_its_encoder(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert torch.equal(embed_random_clips(VideoEncoder.from_pretrained(str(tmp_path))), embed_random_clips(encoder))


def test_bfloat16_weights_are_loaded_as_float32(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.to(torch.bfloat16).save_pretrained(tmp_path)
    found = VideoEncoder.from_pretrained(tmp_path)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert torch.equal(found.temporal["0"].qkv.weight, encoder.temporal["0"].qkv.weight.float())


def test_temporal_weights_depend_on_the_seed(tiny_clip: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = [VideoEncoder.from_pretrained(tiny_clip, seed=seed).temporal["1"].qkv.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)  # the global generator is not used
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_temporal_layers_can_be_selected(tiny_clip: Path) -> None:
    assert list(VideoEncoder.from_pretrained(tiny_clip).temporal) == ["0", "1", "2"]
    assert list(VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[2, 0, 2]).temporal) == ["0", "2"]
    none = VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    assert not list(none.temporal_parameters())
    assert torch.equal(embed_random_clips(none), embed_random_clips(VideoEncoder.from_pretrained(tiny_clip)))
    for wrong in ([3], [-1]):
        with pytest.raises(ValueError, match=rf"temporal_layers: {wrong[0]} is not a layer; choose from 0 to 2"):
            VideoEncoder.from_pretrained(tiny_clip, temporal_layers=wrong)
    with pytest.raises(ValueError, match="5 heads do not divide a width of 32"):
        VideoEncoder.from_pretrained(tiny_clip, temporal_heads=5)


def test_base_encoder_is_the_image_checkpoint(encoder: VideoEncoder, tiny_clip: Path) -> None:
    with torch.no_grad():
        for parameter in encoder.spatial_parameters():
            parameter.mul_(1.2)
    expected = embed_random_clips(VideoEncoder.from_pretrained(tiny_clip, temporal=False))
    assert torch.equal(embed_random_clips(encoder.base_encoder()), expected)
    assert not list(encoder.base_encoder().temporal_parameters())
    encoder.config.base_name = ""
    with pytest.raises(ValueError, match="the image checkpoint is unknown"):
        encoder.base_encoder()


def test_weights_are_not_mapped_to_the_file(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    encoder = VideoEncoder.from_pretrained(folder)
    before = embed_random_clips(encoder)
    with (folder / "model.safetensors").open("r+b") as file:  # overwritten in place
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.write(b"\0" * size)
    assert torch.equal(embed_random_clips(encoder), before)


def test_bundled_checkpoint() -> None:
    encoder = VideoEncoder.from_pretrained("playground")
    assert encoder.config.base_name == "playground"
    assert encoder.encode_text(["waving"]).shape == (1, encoder.embedding_dim)
    assert torch.equal(embed_random_clips(encoder.base_encoder()), embed_random_clips(encoder))


def test_temporal_settings_of_a_saved_encoder_are_fixed(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    for choice in ({"temporal": False}, {"temporal_layers": [0]}, {"temporal_heads": 4}):
        with pytest.raises(ValueError, match=r"of a saved video encoder cannot be changed; use `base_encoder\(\)`"):
            VideoEncoder.from_pretrained(tmp_path, **choice)


def test_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone: no such folder, and not a hub id"):
        VideoEncoder.from_pretrained(tmp_path / "gone")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: is a file; pass the folder that contains it"):
        VideoEncoder.from_pretrained(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"config\.json: no such file; pass the folder of a saved"):
        VideoEncoder.from_pretrained(tmp_path)


Edit = Callable[[Path], None]


def edit(name: str, **changes: Any) -> Edit:
    """Set fields of a JSON file; None removes a field."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content.update(changes)
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def write(name: str, content: str) -> Edit:
    return lambda folder: (folder / name).write_text(content) and None


def edit_weights(change: Callable[[dict[str, Tensor]], Any]) -> Edit:
    def apply(folder: Path) -> None:
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def edit_text_config(**changes: Any) -> Edit:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"].update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return change


def save_as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def change_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["base"]["vision_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))


BROKEN_FILES = [
    (
        lambda folder: (folder / "model.safetensors").unlink(),
        r"no model\.safetensors.*; save the (model|encoder) again",
    ),
    (write("config.json", "{"), r"config\.json: not valid JSON"),
    (write("config.json", "[]"), r"config\.json: not a JSON object"),
    (
        edit("config.json", model_type="bert"),
        r"config\.json: model_type: 'bert' is not supported; use a checkpoint of CLIP",
    ),
    (
        edit("config.json", model_type=None),
        r"config\.json: model_type: None is not supported; use a checkpoint of CLIP",
    ),
    (write("preprocessor_config.json", "no"), r"preprocessor_config\.json: not valid JSON"),
    (
        edit("preprocessor_config.json", image_std=[1]),
        r"preprocessor_config\.json: image_std: \[1\] is not a list of three",
    ),
    (
        edit("preprocessor_config.json", image_mean=None),
        r"preprocessor_config\.json: image_mean: None is not a list of three",
    ),
    (write("tokenizer.json", "no"), r"cannot read the tokenizer"),
    (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        r"no preprocessor_config\.json, which says how pixels are normalized; copy it",
    ),
    (
        edit_weights(lambda tensors: next(iter(tensors.values())).view(-1)[:1].fill_(float("nan"))),
        r"model\.safetensors: .* has values that are not finite; the file is damaged, get it again",
    ),
    (
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
        r"model\.safetensors: is a pointer of Git LFS, not the file itself; run `git lfs pull`",
    ),
]


BROKEN_SAVED = [
    (save_as_pickle, r"no model\.safetensors; save the encoder again"),
    (truncate_weights, r"model\.safetensors: cannot be read as safetensors"),
    (write("model.safetensors", "no"), r"model\.safetensors: cannot be read as safetensors"),
    (
        edit_weights(lambda tensors: tensors.pop("temporal.1.out.bias")),
        r"model\.safetensors: does not match config\.json: temporal\.1\.out\.bias is missing in the file and \(32,\)",
    ),
    (
        edit_weights(lambda tensors: tensors.update(extra=torch.zeros(2))),
        r"extra is \(2,\) in the file and missing in the model",
    ),
    (change_width, r"does not match config\.json: base\.vision_model.*is \(48,?.* in the file and \(64,"),
    (edit("config.json", temporal_layers=[0]), r"does not match config\.json: temporal\.1\..* missing in the model"),
    (edit("config.json", temporal_layers=[7]), r"temporal_layers: 7 is not a layer; choose from 0 to 2"),
    (
        edit("config.json", base=None),
        r"config\.json: base: model_type: None is not supported; use a checkpoint of CLIP",
    ),
    (
        edit("config.json", base={"model_type": "clip", "vision_config": {"hidden_size": "no"}}),
        r"config\.json: .*hidden_s",
    ),
    (edit("config.json", base={"model_type": "bert"}), r"config\.json: base: model_type: 'bert' is not supported"),
    (edit("config.json", base={"model_type": "nobody"}), r"config\.json: base: model_type: 'nobody' is not supported"),
    (write("concept_set.json", "{}"), r"concept_set\.json"),
]


BROKEN_IMAGE = [
    (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin") and None,
        r"pytorch_model\.bin: .* not",
    ),
    (
        edit_weights(lambda t: t.pop("visual_projection.weight")),
        r"model\.safetensors: visual_projection\.weight is missing",
    ),
    (
        edit_weights(lambda t: t.update({"visual_projection.weight": torch.zeros(7, 32)})),
        r"model\.safetensors: visual_projection\.weight is \(7, 32\), but config\.json says \(24, 32\); use config",
    ),
    (
        edit_text_config(num_hidden_layers=2),
        r"model\.safetensors: text_model\.encoder\.layers\.2\..* \(and 15 more\) is in the file, but not in",
    ),
    (
        edit_weights(lambda t: t.pop("logit_scale")),
        r"model\.safetensors: logit_scale is missing; use config\.json and weights of one model",
    ),
    (edit_weights(lambda t: t["text_projection.weight"].zero_()), r"the text tower has no usable vectors"),
    (
        lambda folder: (folder / "config.json").rename(folder / "open_clip_config.json") and None,
        r"open_clip_config\.json is in the format of open_clip, .*; convert the model with https://gist",
    ),
    (write("model.safetensors", "no"), r"cannot read the weights as safetensors"),
    (truncate_weights, r"cannot read the weights as safetensors"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_FILES + BROKEN_SAVED)
def test_broken_saved_encoders(encoder: VideoEncoder, tmp_path: Path, change: Edit, message: str) -> None:
    encoder.save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        VideoEncoder.from_pretrained(tmp_path)
    assert_one_line_with_folder(caught.value, tmp_path)


@pytest.mark.parametrize(("change", "message"), BROKEN_FILES + BROKEN_IMAGE)
def test_broken_image_checkpoints(tiny_clip: Path, tmp_path: Path, change: Edit, message: str) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        VideoEncoder.from_pretrained(folder)
    assert_one_line_with_folder(caught.value, folder)


def assert_one_line_with_folder(error: ValueError, folder: Path) -> None:
    assert str(folder) in str(error)
    assert len(str(error).splitlines()) == 1
