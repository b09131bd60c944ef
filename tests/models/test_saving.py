import inspect
import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from torch import Tensor

from support.small_encoders import TINY_CHECKPOINTS, random_times, random_video, with_random_temporal
from verbspace.concepts.concept_set import Action, ConceptSet, Description, Provenance
from verbspace.models import hub as hub_module
from verbspace.models.video_encoder import VideoEncoder

TEXTS = ["a video of a person waving", "jumping up and down"]
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nobody here may as much as look up a host."""
    tried: list[object] = []

    def refuse(*args: object, **_: object) -> None:
        tried.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not tried


@pytest.fixture(params=TINY_CHECKPOINTS)
def family(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


@pytest.fixture
def concepts() -> ConceptSet:
    return ConceptSet(
        name="two moves",
        actions=[Action(name="waving"), Action(name="jumping")],
        descriptions=[Description(text="both hands up", kind="pose", actions=["waving"])],
        provenance=Provenance(author="Ada Example"),
    )


@pytest.fixture
def encoder(tiny_clip: Path) -> VideoEncoder:
    return with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))


@torch.no_grad()
def video_embedding(encoder: VideoEncoder) -> Tensor:
    return encoder(random_video(2, 4, 3, 32, 32), random_times(2, 4))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# There and back.


def test_round_trip(family: Path, concepts: ConceptSet, tmp_path: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family))
    encoder.concept_set = concepts
    encoder.save_pretrained(tmp_path / "saved")
    found = VideoEncoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(video_embedding(found), video_embedding(encoder))
    assert torch.equal(found.encode_text(TEXTS), encoder.encode_text(TEXTS))
    assert found.concept_set == concepts
    assert not found.training
    assert {n for n, p in found.named_parameters() if p.requires_grad} == {
        n for n, p in encoder.named_parameters() if p.requires_grad
    }
    state, expected = found.state_dict(), encoder.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name
    assert torch.equal(found.image_mean, encoder.image_mean)
    assert found.config.base_name == str(family.resolve())
    found.save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "saved")


def test_files_written(encoder: VideoEncoder, concepts: ConceptSet, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "saved")
    written = {path.name for path in (tmp_path / "saved").iterdir()}
    assert written >= FILES
    assert "concept_set.json" not in written
    encoder.concept_set = concepts
    encoder.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == written | {"concept_set.json"}
    assert ConceptSet.load(tmp_path / "saved" / "concept_set.json").hash == concepts.hash
    assert all(path.suffix in {".json", ".safetensors", ".md", ".txt"} for path in (tmp_path / "saved").iterdir())
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["model_type"] == "verbspace"
    assert config["base"]["model_type"] == "clip"
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == encoder.state_dict().keys()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]  # nothing temporary stays


@pytest.mark.parametrize("choice", [{"temporal": False}, {"temporal_layers": [0, 2]}, {"temporal_heads": 4}])
def test_round_trip_of_other_makes(tiny_clip: Path, choice: dict[str, Any], tmp_path: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip, **choice))
    encoder.save_pretrained(tmp_path)
    found = VideoEncoder.from_pretrained(tmp_path, attention="eager")
    assert list(found.temporal) == list(encoder.temporal)
    assert found.temporal_heads == encoder.temporal_heads
    assert torch.equal(video_embedding(found), video_embedding(encoder))


def test_a_run_stands_for_the_encoder_in_it(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert torch.equal(video_embedding(VideoEncoder.from_pretrained(str(tmp_path))), video_embedding(encoder))


def test_weights_in_bfloat16_are_loaded_as_float32(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.to(torch.bfloat16).save_pretrained(tmp_path)
    found = VideoEncoder.from_pretrained(tmp_path)
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert torch.equal(found.temporal["0"].qkv.weight, encoder.temporal["0"].qkv.weight.float())


def test_the_model_card(encoder: VideoEncoder, tiny_clip: Path, concepts: ConceptSet, tmp_path: Path) -> None:
    def card(of: VideoEncoder) -> str:
        of.save_pretrained(tmp_path / "card")
        return (tmp_path / "card" / "README.md").read_text()

    encoder.concept_set = concepts
    text = card(encoder)
    assert text.startswith("---\nlibrary_name: verbspace\n")
    assert "two moves, has 2 actions and 1 descriptions, written by Ada Example" in text
    assert concepts.hash in text
    assert "adapted to video without labels" in text
    assert "- self-supervised" in text
    assert str(tiny_clip) not in text
    assert "base_model" not in text  # a folder is none that others can find
    encoder.config.base_name = "some/clip"
    assert "base_model: some/clip\n" in card(encoder)
    assert "https://huggingface.co/some/clip" in card(encoder)
    fresh = card(VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[1]))
    assert "before 1 of its layers, which is not trained yet" in fresh
    assert "self-supervised" not in fresh
    assert "temporal attention" not in card(VideoEncoder.from_pretrained(tiny_clip, temporal=False))


# How an image checkpoint gets its temporal attention.


def test_temporal_attention_is_drawn_from_the_seed(tiny_clip: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = [VideoEncoder.from_pretrained(tiny_clip, seed=seed).temporal["1"].qkv.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)  # the global generator is left alone
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_which_layers_have_time(tiny_clip: Path) -> None:
    assert list(VideoEncoder.from_pretrained(tiny_clip).temporal) == ["0", "1", "2"]
    assert list(VideoEncoder.from_pretrained(tiny_clip, temporal_layers=[2, 0, 2]).temporal) == ["0", "2"]
    none = VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    assert not list(none.temporal_parameters())
    assert torch.equal(video_embedding(none), video_embedding(VideoEncoder.from_pretrained(tiny_clip)))
    for wrong in ([3], [-1]):
        with pytest.raises(ValueError, match=rf"temporal_layers: {wrong[0]} is not a layer; the tower has 0 to 2"):
            VideoEncoder.from_pretrained(tiny_clip, temporal_layers=wrong)
    with pytest.raises(ValueError, match="5 heads do not divide a width of 32"):
        VideoEncoder.from_pretrained(tiny_clip, temporal_heads=5)


def test_frozen_is_the_image_checkpoint(encoder: VideoEncoder, tiny_clip: Path) -> None:
    with torch.no_grad():
        for parameter in encoder.spatial_parameters():
            parameter.mul_(1.2)
    expected = video_embedding(VideoEncoder.from_pretrained(tiny_clip, temporal=False))
    assert torch.equal(video_embedding(encoder.base_encoder()), expected)
    assert not list(encoder.base_encoder().temporal_parameters())
    encoder.config.base_name = ""
    with pytest.raises(ValueError, match="does not say which image checkpoint"):
        encoder.base_encoder()


def test_weights_do_not_lie_in_the_file(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    encoder = VideoEncoder.from_pretrained(folder)
    before = video_embedding(encoder)
    with (folder / "model.safetensors").open("r+b") as file:  # overwritten in place
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        file.write(b"\0" * size)
    assert torch.equal(video_embedding(encoder), before)


# All or nothing.


def breaking(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(where, fail)


WHERE = [
    "verbspace.models.saving.save_file",
    "verbspace.models.processor.Sources.save",
    "verbspace.concepts.concept_set.ConceptSet.save",
    "verbspace.utils.atomic_io.PlacingFolder._place",
]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("others", [False, True])
def test_an_error_while_saving_changes_nothing(
    encoder: VideoEncoder,
    concepts: ConceptSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    others: bool,
) -> None:
    folder = tmp_path / "saved"
    encoder.concept_set = concepts
    encoder.save_pretrained(folder)
    if others:
        (folder / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with_random_temporal(encoder, seed=9)
    breaking(monkeypatch, where)
    with pytest.raises(OSError, match="disk full"):
        encoder.save_pretrained(folder)
    assert contents(tmp_path) == before
    with pytest.raises(OSError, match="disk full"):
        encoder.save_pretrained(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_be_placed(
    encoder: VideoEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "saved"
    encoder.save_pretrained(folder)
    before = contents(tmp_path)
    real = os.replace
    moves: list[Path] = []

    def second_fails(source: Path, target: Path) -> None:
        moves.append(Path(source))
        if len(moves) == 2:
            raise OSError("no space")
        real(source, target)

    monkeypatch.setattr(
        "verbspace.utils.atomic_io._exchange_directories", lambda *_: False
    )  # as on other systems than Linux
    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="no space"):
        with_random_temporal(encoder, seed=9).save_pretrained(folder)
    assert len(moves) == 3
    assert contents(tmp_path) == before


def test_other_files_stay_and_a_former_concept_set_goes(
    encoder: VideoEncoder, concepts: ConceptSet, tmp_path: Path
) -> None:
    encoder.concept_set = concepts
    encoder.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "results").mkdir()
    (tmp_path / "saved" / "results" / "ucf101.json").write_text("{}")
    encoder.concept_set = None
    with_random_temporal(encoder, seed=9).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "results" / "ucf101.json").read_text() == "{}"
    found = VideoEncoder.from_pretrained(tmp_path / "saved")
    assert found.concept_set is None
    assert torch.equal(video_embedding(found), video_embedding(encoder))
    shutil.rmtree(tmp_path / "saved" / "results")
    encoder.concept_set = concepts
    encoder.save_pretrained(tmp_path / "saved")
    encoder.concept_set = None
    encoder.save_pretrained(tmp_path / "saved")  # nothing but names written again: replaced as a whole
    assert VideoEncoder.from_pretrained(tmp_path / "saved").concept_set is None


def test_saving_into_an_empty_folder_a_new_one_and_a_file(encoder: VideoEncoder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        encoder.save_pretrained(str(folder))
        assert {path.name for path in folder.iterdir()} >= FILES
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file: is a file; give a folder to save into"):
        encoder.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_encoder_without_words_cannot_be_saved(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.processor = None
    with pytest.raises(ValueError, match="has no tokenizer and no image processor; build it with from_pretrained"):
        encoder.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


# To the hub.


class Hub:
    """What would have been sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: list[Any] = []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    sent = Hub()

    real = {name: inspect.signature(getattr(HfApi, name)) for name in ("create_repo", "upload_folder")}

    def create_repo(api: HfApi, repo_id: str, **options: Any) -> str:
        real["create_repo"].bind(api, repo_id, **options)  # the hub's own client knows these
        sent.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        sent.tokens.append(api.token)
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(api: HfApi, *, folder_path: Path, **options: Any) -> None:
        real["upload_folder"].bind(api, folder_path=folder_path, **options)
        sent.calls.append(("upload_folder", options))
        sent.files = contents(Path(folder_path))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return sent


def test_push(encoder: VideoEncoder, concepts: ConceptSet, hub: Hub, tiny_clip: Path, tmp_path: Path) -> None:
    encoder.concept_set = concepts
    url = encoder.push_to_hub("ada/waves", private=True, token="secret", commit_message="First")
    assert url == "https://huggingface.co/ada/waves"
    assert [name for name, _ in hub.calls] == ["create_repo", "upload_folder"]
    created, uploaded = (options for _, options in hub.calls)
    assert created == {"repo_id": "ada/waves", "private": True, "exist_ok": True}
    assert uploaded == {"repo_id": "ada/waves", "commit_message": "First", "delete_patterns": ["concept_set.json"]}
    assert hub.tokens == ["secret"]
    encoder.save_pretrained(tmp_path / "saved")
    assert hub.files.keys() == contents(tmp_path / "saved").keys()
    # The folder that the image checkpoint was in stays untold.
    assert json.loads(hub.files["config.json"])["base_name"] == ""
    for name, content in hub.files.items():
        assert str(tiny_clip).encode() not in content, name
        assert str(tiny_clip.parent).encode() not in content, name
    assert encoder.config.base_name == str(tiny_clip.resolve())  # the encoder itself still knows
    for name, content in hub.files.items():
        (tmp_path / "fetched").mkdir(exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(content)
    found = VideoEncoder.from_pretrained(tmp_path / "fetched")
    assert torch.equal(video_embedding(found), video_embedding(encoder))
    assert found.concept_set == concepts


def test_push_tells_a_base_of_the_hub(encoder: VideoEncoder, hub: Hub) -> None:
    encoder.config.base_name = "some/clip"
    encoder.push_to_hub("ada/waves")
    assert json.loads(hub.files["config.json"])["base_name"] == "some/clip"
    assert b"base_model: some/clip\n" in hub.files["README.md"]


def test_a_hub_id_is_fetched_without_pickles(
    encoder: VideoEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    encoder.save_pretrained(tmp_path / "snapshot")

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub_module, "snapshot_download", snapshot)
    found = VideoEncoder.from_pretrained("ada/waves", revision="v1", token="secret")
    assert torch.equal(video_embedding(found), video_embedding(encoder))
    [(name, options)] = asked
    patterns = options.pop("allow_patterns")
    assert (name, options) == ("ada/waves", {"revision": "v1", "token": "secret"})
    assert {"*.json", "model.safetensors"} <= set(patterns)
    assert not any("bin" in pattern or "pt" in pattern or pattern == "*" for pattern in patterns)


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "verbspace.models.hub.snapshot_download")
    with pytest.raises(FileNotFoundError, match=r"ada/waves: is no folder here .* from the hub: disk full"):
        VideoEncoder.from_pretrained("ada/waves")


# What is refused, in words that help.


def test_places_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone: there is no such folder, and this is no hub id"):
        VideoEncoder.from_pretrained(tmp_path / "gone")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: is a file; give the folder that it lies in"):
        VideoEncoder.from_pretrained(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"config\.json: there is no such file; give a folder with a saved"):
        VideoEncoder.from_pretrained(tmp_path)


Change = Callable[[Path], None]


def edit(name: str, **changes: Any) -> Change:
    """Set fields of a JSON file; None takes one away."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content.update(changes)
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def write(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def retensor(change: Callable[[dict[str, Tensor]], Any]) -> Change:
    def apply(folder: Path) -> None:
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def halve(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def widen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["base"]["vision_config"]["intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))


EITHER = [
    (pickled, r"has only pytorch_model\.bin, which is a pickle and is never read; save the model again"),
    (lambda folder: (folder / "model.safetensors").unlink(), r"has no model\.safetensors; save the model again"),
    (write("config.json", "{"), r"config\.json: is not JSON"),
    (write("config.json", "[]"), r"config\.json: holds no JSON object"),
    (edit("config.json", model_type="bert"), r"config\.json: model_type: 'bert' is none that is read; use CLIP"),
    (edit("config.json", model_type=None), r"config\.json: model_type: None is none that is read; use CLIP"),
    (write("preprocessor_config.json", "no"), r"preprocessor_config\.json: is not JSON"),
    (edit("preprocessor_config.json", image_std=[1]), r"preprocessor_config\.json: image_std: \[1\] is not three"),
    (edit("preprocessor_config.json", image_mean=None), r"preprocessor_config\.json: image_mean: None is not three"),
    (write("tokenizer.json", "no"), r"the tokenizer cannot be read"),
]
SAVED = [
    (halve, r"model\.safetensors: cannot be read as safetensors"),
    (write("model.safetensors", "no"), r"model\.safetensors: cannot be read as safetensors"),
    (
        retensor(lambda tensors: tensors.pop("temporal.1.out.bias")),
        r"model\.safetensors: does not fit config\.json: temporal\.1\.out\.bias is missing in the file, \(32,\) in the",
    ),
    (
        retensor(lambda tensors: tensors.update(extra=torch.zeros(2))),
        r"extra is \(2,\) in the file, missing in the model",
    ),
    (widen, r"does not fit config\.json: base\.vision_model.*is \(48,?.* in the file, \(64,"),
    (edit("config.json", temporal_layers=[0]), r"does not fit config\.json: temporal\.1\..* missing in the model"),
    (edit("config.json", temporal_layers=[7]), r"temporal_layers: 7 is not a layer; the tower has 0 to 2"),
    (edit("config.json", base=None), r"config\.json: base: model_type: None is none that is read; use CLIP"),
    (
        edit("config.json", base={"model_type": "clip", "vision_config": {"hidden_size": "no"}}),
        r"config\.json: .*hidden_s",
    ),
    (edit("config.json", base={"model_type": "bert"}), r"config\.json: base: model_type: 'bert' is none that is read"),
    (edit("config.json", base={"model_type": "nobody"}), r"config\.json: base: model_type: 'nobody' is none that is"),
    (write("concept_set.json", "{}"), r"concept_set\.json"),
]
IMAGE = [
    (retensor(lambda t: t.pop("visual_projection.weight")), r"model\.safetensors: lacks visual_projection\.weight"),
    (
        retensor(lambda t: t.update({"visual_projection.weight": torch.zeros(7, 32)})),
        r"the weights do not fit config\.json",
    ),
    (write("model.safetensors", "no"), r"the weights cannot be read as safetensors"),
    (halve, r"the weights cannot be read as safetensors"),
]


@pytest.mark.parametrize(("change", "message"), EITHER + SAVED)
def test_broken_saved_encoders(encoder: VideoEncoder, tmp_path: Path, change: Change, message: str) -> None:
    encoder.save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        VideoEncoder.from_pretrained(tmp_path)
    check_message(caught.value, tmp_path)


@pytest.mark.parametrize(("change", "message"), EITHER + IMAGE)
def test_broken_image_checkpoints(tiny_clip: Path, tmp_path: Path, change: Change, message: str) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        VideoEncoder.from_pretrained(folder)
    check_message(caught.value, folder)


def check_message(error: ValueError, folder: Path) -> None:
    assert str(folder) in str(error)
    assert len(str(error).splitlines()) == 1


def test_a_saved_encoders_time_is_what_it_is(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    for choice in ({"temporal": False}, {"temporal_layers": [0]}, {"temporal_heads": 4}):
        with pytest.raises(ValueError, match=r"is a saved video encoder.*use `frozen\(\)`"):
            VideoEncoder.from_pretrained(tmp_path, **choice)


def test_pixel_statistics_from_other_places(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=re.escape(f"{folder}: has no preprocessor_config.json")):
        encoder = VideoEncoder.from_pretrained(folder)
    torch.testing.assert_close(encoder.image_mean, torch.tensor([0.48145466, 0.4578275, 0.40821073]))
    processor["image_mean"] = [0.1, 0.2, 0.3]
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    torch.testing.assert_close(VideoEncoder.from_pretrained(folder).image_mean, torch.tensor([0.1, 0.2, 0.3]))


def test_siglip_has_statistics_of_its_own(tiny_siglip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_siglip, tmp_path / "siglip")
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="no preprocessor_config"):
        encoder = VideoEncoder.from_pretrained(folder)
    assert encoder.image_mean.tolist() == encoder.image_std.tolist() == [0.5, 0.5, 0.5]


def test_the_bundled_checkpoint() -> None:
    encoder = VideoEncoder.from_pretrained("playground")
    assert encoder.config.base_name == "playground"
    assert encoder.encode_text(["waving"]).shape == (1, encoder.embedding_dim)
    assert torch.equal(video_embedding(encoder.base_encoder()), video_embedding(encoder))
