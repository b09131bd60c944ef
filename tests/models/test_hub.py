"""Saving encoders to folders, and uploads and downloads with a fake client."""

import inspect
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file

from support.small_encoders import embed_random_clips, with_random_temporal
from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.video_encoder import VideoEncoder

TEXTS = ["a video of a person waving", "jumping up and down"]
FILES = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fail tests that open a connection or look up a host."""
    attempts: list[object] = []

    def reject(*args: object, **_: object) -> None:
        attempts.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", reject)
    monkeypatch.setattr(socket, "getaddrinfo", reject)
    yield
    assert not attempts


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_round_trip(family: Path, concepts: ConceptSet, tmp_path: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(family))
    encoder.concept_set = concepts
    encoder.save_pretrained(tmp_path / "saved")
    found = VideoEncoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(embed_random_clips(found), embed_random_clips(encoder))
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
    assert found.require_processor().image_mean == encoder.require_processor().image_mean
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
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]  # no temporary files


@pytest.mark.parametrize("choice", [{"temporal": False}, {"temporal_layers": [0, 2]}, {"temporal_heads": 4}])
def test_round_trip_of_other_architectures(tiny_clip: Path, choice: dict[str, Any], tmp_path: Path) -> None:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip, **choice))
    encoder.save_pretrained(tmp_path)
    found = VideoEncoder.from_pretrained(tmp_path, attention="eager")
    assert list(found.temporal) == list(encoder.temporal)
    assert found.temporal_heads == encoder.temporal_heads
    assert torch.equal(embed_random_clips(found), embed_random_clips(encoder))


def make_fail(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(where, fail)


FAILING_STEPS = [
    "verbspace.models.hub.save_file",
    "verbspace.models.processor.Processor.save",
    "verbspace.concepts.concept_set.ConceptSet.save",
    "verbspace.utils.atomic_io._copy_modes",
]


@pytest.mark.parametrize("where", FAILING_STEPS)
@pytest.mark.parametrize("has_other_files", [False, True])
def test_error_while_saving_changes_nothing(
    encoder: VideoEncoder,
    concepts: ConceptSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    has_other_files: bool,
) -> None:
    folder = tmp_path / "saved"
    encoder.concept_set = concepts
    encoder.save_pretrained(folder)
    if has_other_files:
        (folder / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with_random_temporal(encoder, seed=9)
    make_fail(monkeypatch, where)
    with pytest.raises(OSError, match="disk full"):
        encoder.save_pretrained(folder)
    assert contents(tmp_path) == before
    with pytest.raises(OSError, match="disk full"):
        encoder.save_pretrained(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_saving_keeps_other_files_but_removes_an_old_concept_set(
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
    assert torch.equal(embed_random_clips(found), embed_random_clips(encoder))
    shutil.rmtree(tmp_path / "saved" / "results")
    encoder.concept_set = concepts
    encoder.save_pretrained(tmp_path / "saved")
    encoder.concept_set = None
    encoder.save_pretrained(tmp_path / "saved")  # only names that are written again: replaced in one step
    assert VideoEncoder.from_pretrained(tmp_path / "saved").concept_set is None


def test_saving_into_new_and_empty_folders_but_not_a_file(encoder: VideoEncoder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "a" / "b"):
        encoder.save_pretrained(str(folder))
        assert {path.name for path in folder.iterdir()} >= FILES
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file: is a file; choose a folder"):
        encoder.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_encoder_without_processor_cannot_be_saved(encoder: VideoEncoder, tmp_path: Path) -> None:
    encoder.processor = None
    with pytest.raises(ValueError, match="has no tokenizer and no image processor; build it with from_pretrained"):
        encoder.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


class FakeHubApi:
    """Records what would have been sent to the hub."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: list[Any] = []


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHubApi:
    sent = FakeHubApi()
    real = {name: inspect.signature(getattr(HfApi, name)) for name in ("create_repo", "upload_folder")}

    def create_repo(api: HfApi, repo_id: str, **options: Any) -> str:
        real["create_repo"].bind(api, repo_id, **options)  # the real client accepts these arguments
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


def test_push_uploads_the_saved_files(
    encoder: VideoEncoder, concepts: ConceptSet, hub: FakeHubApi, tiny_clip: Path, tmp_path: Path
) -> None:
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
    # The local folder of the image checkpoint is not uploaded.
    assert json.loads(hub.files["config.json"])["base_name"] == ""
    for name, content in hub.files.items():
        assert str(tiny_clip).encode() not in content, name
        assert str(tiny_clip.parent).encode() not in content, name
    assert encoder.config.base_name == str(tiny_clip.resolve())  # the encoder is not changed
    for name, content in hub.files.items():
        (tmp_path / "fetched").mkdir(exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(content)
    found = VideoEncoder.from_pretrained(tmp_path / "fetched")
    assert torch.equal(embed_random_clips(found), embed_random_clips(encoder))
    assert found.concept_set == concepts


def test_push_names_a_base_model_on_the_hub(encoder: VideoEncoder, hub: FakeHubApi) -> None:
    encoder.config.base_name = "some/clip"
    encoder.push_to_hub("ada/waves")
    assert json.loads(hub.files["config.json"])["base_name"] == "some/clip"
    assert b"base_model: some/clip\n" in hub.files["README.md"]


def test_download_error(monkeypatch: pytest.MonkeyPatch) -> None:
    make_fail(monkeypatch, "verbspace.models.hub.download_snapshot")
    with pytest.raises(
        FileNotFoundError, match=r"ada/waves: no such folder, and the download from the hub failed: disk full"
    ):
        VideoEncoder.from_pretrained("ada/waves")


def test_a_misspelt_folder_is_told_its_neighbor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    make_fail(monkeypatch, "verbspace.models.hub.download_snapshot")
    with pytest.raises(FileNotFoundError, match=r"^runs/mien: no such folder \(did you mean runs/mine\?\), and the"):
        VideoEncoder.from_pretrained("runs/mien")
