import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, CLIPTokenizer

from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.models.processor import Processor
from verbspace.models.video_encoder import VideoEncoder


def image_mean(folder: Path) -> list[float]:
    return VideoEncoder.from_pretrained(folder).require_processor().image_mean


def test_pixel_statistics_of_other_files(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"clip: no preprocessor_config\.json, which says how pixels are normalized"):
        image_mean(folder)
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": {**config, "image_mean": [0.1, 0.2, 0.3]}})
    )
    assert image_mean(folder) == [0.1, 0.2, 0.3]


def edit_config(part: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content[part].update(changes)
        (folder / "config.json").write_text(json.dumps(content))

    return change


def remove_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def keep_vocabulary_only(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    remove_tokenizer(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))


def save_dummy_tokenizer(folder: Path) -> None:
    CLIPTokenizer().save_pretrained(folder)


def swap_end_token(folder: Path) -> None:
    """Give the end token the id of the start token, and the reverse."""
    text = (folder / "tokenizer.json").read_text()
    for old, new in (
        ("<|startoftext|>", "<|swap|>"),
        ("<|endoftext|>", "<|startoftext|>"),
        ("<|swap|>", "<|endoftext|>"),
    ):
        text = text.replace(old, new)
    (folder / "tokenizer.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_tokenizer, r"no tokenizer\.json, no vocab\.json and no sentencepiece model; save the tokenizer"),
        (keep_vocabulary_only, r"vocab\.json needs merges\.txt, which is missing; copy it"),
        (save_dummy_tokenizer, r"tokenizer\.json: different texts have the same tokens; use the tokenizer"),
        (
            edit_config("text_config", eos_token_id=7),
            r"tokenizer\.json: does not end texts with eos_token_id 7 of config",
        ),
    ],
)
@pytest.mark.parametrize("is_saved", [False, True])
def test_tokenizers_that_do_not_belong_to_the_model(
    tiny_clip: Path, tmp_path: Path, change: Callable[[Path], None], message: str, is_saved: bool
) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    if is_saved:
        if "eos" in message:
            pytest.skip("its config has another form")
        VideoEncoder.from_pretrained(folder).save_pretrained(tmp_path / "saved")
        folder = tmp_path / "saved"
    change(folder)
    with pytest.raises(ValueError, match=message) as error:
        VideoEncoder.from_pretrained(folder)
    assert str(folder) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_vocabulary_that_does_not_fit_the_embedding(tiny_clip: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_clip)
    config.text_config.vocab_size -= 1
    with pytest.raises(
        ValueError, match=r"tokenizer\.json: has tokens up to 513, but vocab_size of config\.json is 513"
    ):
        Processor.from_folder(tiny_clip, config)


def test_vocabulary_of_a_smaller_model(tiny_clip: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_clip)
    config.text_config.vocab_size = round(514 / 0.89)
    with pytest.raises(ValueError, match=r"has tokens up to 513, but vocab_size of config\.json is 578; use the tok"):
        Processor.from_folder(tiny_clip, config)
    config.text_config.vocab_size = 576  # a multiple of 64
    with pytest.raises(ValueError, match=r"is 576"):
        Processor.from_folder(tiny_clip, config)
    config.text_config.vocab_size = 571
    assert len(Processor.from_folder(tiny_clip, config).tokenizer) == 514


def test_end_token_of_early_configs(tiny_clip: Path, tmp_path: Path) -> None:
    """`eos_token_id: 2` stands for the largest token."""
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    edit_config("text_config", eos_token_id=2)(folder)
    expected = VideoEncoder.from_pretrained(tiny_clip).encode_text(["waving", "jumping up and down"])
    assert torch.equal(VideoEncoder.from_pretrained(folder).encode_text(["waving", "jumping up and down"]), expected)
    swap_end_token(folder)
    with pytest.raises(ValueError, match=r"tokenizer\.json: the end token is not the largest token of a text"):
        VideoEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fixture", "changes", "expected"),
    [
        ("tiny_clip", {}, FramePreprocessing(32)),
        ("tiny_clip", {"size": 32, "crop_size": 32, "resample": 3}, FramePreprocessing(32)),
        ("tiny_clip", {"size": {"height": 32, "width": 32}}, FramePreprocessing(32, "squash")),
        ("tiny_clip", {"size": None, "resample": 2}, FramePreprocessing(32, "shortest_edge", "bilinear")),
        ("tiny_siglip", {}, FramePreprocessing(32, "squash")),
        ("tiny_siglip", {"resample": 2, "size": None}, FramePreprocessing(32, "squash", "bilinear")),
        ("tiny_siglip2", {}, FramePreprocessing(32, "keep_aspect", "bilinear", 8, 16)),
        (
            "tiny_siglip2",
            {"max_num_patches": 24, "resample": 3},
            FramePreprocessing(32, "keep_aspect", "bicubic", 8, 24),
        ),
        ("tiny_siglip2", {"size": {"height": 32, "width": 32}}, FramePreprocessing(32, "squash", "bilinear")),
    ],
)
def test_frame_preprocessing(
    fixture: str, changes: dict[str, object], expected: FramePreprocessing, request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "checkpoint")
    config = {**json.loads((folder / "preprocessor_config.json").read_text()), **changes}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    encoder = VideoEncoder.from_pretrained(folder)
    assert encoder.preprocessing == expected
    encoder.save_pretrained(tmp_path / "saved")
    assert VideoEncoder.from_pretrained(tmp_path / "saved").preprocessing == expected
    frames = torch.randint(256, (1, 2, 3, 40, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder.encode_video(frames), encoder.encode_video(expected.apply(frames)[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 1}, r"resample: 1 is not supported; use 2 \(bilinear\)"),
        ({"do_normalize": False}, "do_normalize: False is not supported; it must be true"),
        ({"rescale_factor": 1.0}, "rescale_factor: 1.0 is not supported; it must be 1/255"),
        ({"crop_size": {"height": 16, "width": 16}}, "do not fit image_size 32 of config.json"),
        ({"max_num_patches": 0}, "max_num_patches: 0 is not supported; it must be 1 or more"),
        ({"max_num_patches": 16, "patch_size": 16}, "patch_size: 16 is not the patch_size 8 of config.json; use both"),
        ({"size": 64, "do_center_crop": False}, "frames of 64 do not fit image_size 32 of config.json"),
    ],
)
def test_preprocessing_that_is_not_supported(
    changes: dict[str, object], message: str, tiny_clip: Path, tiny_siglip2: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_siglip2 if "max_num_patches" in changes else tiny_clip, tmp_path / "checkpoint")
    config = {**json.loads((folder / "preprocessor_config.json").read_text()), **changes}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"_config\.json: .*{message}"):
        VideoEncoder.from_pretrained(folder)


@pytest.mark.parametrize("fixture", ["tiny_clip", "tiny_siglip"])
def test_texts_that_are_cut_are_logged_once(
    fixture: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = VideoEncoder.from_pretrained(request.getfixturevalue(fixture))
    limit = encoder.require_processor().context_length
    word = "a" if fixture == "tiny_siglip" else "o"  # one token, beside one or two special ones
    special = encoder.require_processor().count_tokens(word) - 1
    exact, longer = " ".join([word] * (limit - special)), " ".join([word] * (limit - special + 1))
    encoder.encode_text([exact, "waving"])
    assert not caplog.records
    vectors = encoder.encode_text([exact, *[longer] * 5, "waving"], batch_size=2)
    expected = (
        f"5 of 7 texts are cut at the {limit} tokens that this model reads, such as {longer!r} with {limit + 1} "
        "tokens; shorten them"
    )
    assert [record.getMessage() for record in caplog.records] == [expected]
    assert torch.allclose(vectors[0], vectors[1], atol=1e-6)
    encoder.encode_text([exact, *[longer] * 5, "waving"], batch_size=2)
    assert len(caplog.records) == 1
