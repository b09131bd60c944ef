"""Which files of a hub repository are downloaded and loaded, with the real client and a local hub."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.fake_hub import FakeHub, fake_hub, use_fake_hub
from support.small_encoders import embed_random_clips
from verbspace.models.snapshots import CONVERSION_REF, select_weights
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.checkpoint_names import split_revision

REPO = "ada/clip"
BOT = "SFconvertbot"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """An empty hub, and an empty cache of the client."""
    server.commits.clear()
    server.pull_requests.clear()
    server.downloads.clear()
    use_fake_hub(server, monkeypatch, tmp_path / "cache")
    yield server
    assert not server.unexpected_requests


@pytest.fixture(scope="module")
def files(tiny_clip: Path) -> dict[str, bytes]:
    """The files of a checkpoint without weights."""
    return {path.name: path.read_bytes() for path in tiny_clip.iterdir() if path.suffix != ".safetensors"}


@pytest.fixture(scope="module")
def weights(tiny_clip: Path) -> bytes:
    return (tiny_clip / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def pickled(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same weights as a pickle."""
    path = tmp_path_factory.mktemp("pickle") / "pytorch_model.bin"
    torch.save(load_file(tiny_clip / "model.safetensors"), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def expected(tiny_clip: Path) -> torch.Tensor:
    return embed_random_clips(VideoEncoder.from_pretrained(tiny_clip))


def load(name: str = REPO, **options: object) -> VideoEncoder:
    return VideoEncoder.from_pretrained(name, **options)


def go_offline(monkeypatch: pytest.MonkeyPatch, how: str) -> dict[str, bool]:
    """Take the network away; return the options of `load`."""
    if how == "variable":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    elif how == "no server":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    return {"local_files_only": True} if how == "argument" else {}


OFFLINE = ["variable", "no server", "argument"]


def test_safetensors_of_the_branch(
    hub: FakeHub, files: dict[str, bytes], weights: bytes, pickled: bytes, expected: torch.Tensor
) -> None:
    others = {"tf_model.h5": b"", "onnx/config.json": b"{}", "open_clip_pytorch_model.bin": b"", "README.md": b""}
    commit = hub.add_files(REPO, {**files, **others, "model.safetensors": weights, "pytorch_model.bin": pickled})
    hub.add_pull_request(REPO, {"model.safetensors": b"no"}, author=BOT)
    encoder = load()
    assert torch.equal(embed_random_clips(encoder), expected)
    assert encoder.config.base_revision == commit
    assert encoder.config.base_name == REPO
    assert set(hub.downloads) == {*files, "model.safetensors"}


@pytest.mark.parametrize("how", OFFLINE)
def test_safetensors_of_the_conversion(
    hub: FakeHub, files: dict[str, bytes], weights: bytes, pickled: bytes, expected: torch.Tensor, how: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    hub.add_files(REPO, {**files, "pytorch_model.bin": pickled})
    reference = hub.add_pull_request(REPO, {"model.safetensors": weights}, author=BOT)
    encoder = load()
    assert torch.equal(embed_random_clips(encoder), expected)
    assert encoder.config.base_revision == hub.commit_sha(REPO, reference)
    assert "pytorch_model.bin" not in hub.downloads
    hub.downloads.clear()
    options = go_offline(monkeypatch, how)
    caplog.clear()
    for name in (REPO, f"{REPO}@main", f"{REPO}@{reference}", f"{REPO}@{encoder.config.base_revision}"):
        again = load(name, **options)
        assert torch.equal(embed_random_clips(again), expected)
        assert again.config.base_revision == encoder.config.base_revision
    assert not hub.downloads
    assert ("using the snapshot in the cache" in caplog.text) == (how == "no server")


@pytest.mark.parametrize("kind", ["another author", "another title", "closed", "not on top of main", "no weights"])
def test_other_pull_requests_are_not_used(
    hub: FakeHub, files: dict[str, bytes], weights: bytes, pickled: bytes, expected: torch.Tensor, kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    hub.add_files(REPO, {**files, "pytorch_model.bin": pickled})
    author = "mallory" if kind == "another author" else BOT
    title = {"title": "Faster weights"} if kind == "another title" else {}
    added = {"notes.txt": b""} if kind == "no weights" else {"model.safetensors": b"poison"}
    reference = hub.add_pull_request(REPO, added, author=author, **title)
    if kind == "closed":
        hub.pull_requests[REPO][0].status = "closed"
    if kind == "not on top of main":
        hub.add_files(REPO, {"README.md": b"newer"})
    with caplog.at_level(logging.WARNING):
        encoder = load()
    assert torch.equal(embed_random_clips(encoder), expected)
    assert encoder.config.base_revision == hub.commit_sha(REPO)
    assert "model.safetensors" not in hub.downloads
    assert caplog.text.count("pytorch_model.bin: no safetensors; reading the weights only, which runs no code") == 1
    if kind != "no weights":
        with pytest.raises(ValueError, match="cannot read the weights as safetensors"):
            load(f"{REPO}@{reference}")
    # A pull request in the cache is not taken for the conversion.
    assert torch.equal(embed_random_clips(load(local_files_only=True)), expected)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("how", OFFLINE)
def test_pickle(
    hub: FakeHub, files: dict[str, bytes], tiny_clip: Path, expected: torch.Tensor, tmp_path: Path, sharded: bool,
    how: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    hub.add_files(REPO, {**files, **weight_files(tiny_clip, tmp_path / "new", pickled=True, sharded=sharded)})
    encoder = load()
    assert torch.equal(embed_random_clips(encoder), expected)
    assert torch.equal(embed_random_clips(load(**go_offline(monkeypatch, how))), expected)


def weight_files(checkpoint: Path, folder: Path, *, pickled: bool, sharded: bool) -> dict[str, bytes]:
    """Write the weights of a checkpoint in another form, and return the files."""
    folder.mkdir()
    tensors = load_file(checkpoint / "model.safetensors")
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    names = [f"{stem}-{n}-of-00002.{suffix}" for n in ("00001", "00002")] if sharded else [f"{stem}.{suffix}"]
    parts: list[dict[str, torch.Tensor]] = [{} for _ in names]
    for number, (key, tensor) in enumerate(tensors.items()):
        parts[number % len(names)][key] = tensor
    for name, part in zip(names, parts, strict=True):
        if pickled:
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name, metadata={"format": "pt"})
    if sharded:
        places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sharded_safetensors(
    hub: FakeHub, files: dict[str, bytes], tiny_clip: Path, expected: torch.Tensor, pickled: bytes, tmp_path: Path
) -> None:
    shards = weight_files(tiny_clip, tmp_path / "new", pickled=False, sharded=True)
    hub.add_files(REPO, {**files, **shards, "pytorch_model.bin": pickled})
    assert torch.equal(embed_random_clips(load()), expected)
    assert set(hub.downloads) == {*files, *shards}


@pytest.mark.parametrize("sharded", [False, True])
def test_local_pickle(tiny_clip: Path, expected: torch.Tensor, tmp_path: Path, sharded: bool) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    for name, content in weight_files(tiny_clip, tmp_path / "new", pickled=True, sharded=sharded).items():
        (folder / name).write_bytes(content)
    assert torch.equal(embed_random_clips(VideoEncoder.from_pretrained(folder)), expected)
    if sharded:
        (folder / "pytorch_model-00002-of-00002.bin").unlink()
        with pytest.raises(
            ValueError, match=r"pytorch_model-00002-of-00002\.bin of pytorch_model\.bin\.index\.json is"
        ):
            VideoEncoder.from_pretrained(folder)


class Payload:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


def test_a_pickle_with_code_is_not_run(tiny_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"
    torch.save({"a": Payload(str(marker))}, folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin: contains more than weights, or is damaged, and is"
    ) as error:
        VideoEncoder.from_pretrained(folder)
    assert len(str(error.value).splitlines()) == 1
    assert not marker.exists()


def test_revisions(hub: FakeHub, files: dict[str, bytes], weights: bytes, tmp_path: Path) -> None:
    first = hub.add_files(REPO, {**files, "model.safetensors": weights})
    changed = dict(load_file(write(tmp_path / "model.safetensors", weights)))
    changed["visual_projection.weight"] = 2 * changed["visual_projection.weight"].flip(0)
    save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    second = hub.add_files(REPO, {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}, "Retrain")
    newest, old = load(), load(f"{REPO}@{first}")
    assert (newest.config.base_revision, old.config.base_revision) == (second, first)
    assert (newest.config.base_name, old.config.base_name) == (REPO, REPO)
    assert not torch.equal(embed_random_clips(newest), embed_random_clips(old))
    assert torch.equal(embed_random_clips(load(revision=first)), embed_random_clips(old))
    assert torch.equal(embed_random_clips(load(f"{REPO}@{first}", revision=first)), embed_random_clips(old))
    # A saved encoder remembers the commit of its image checkpoint.
    old.save_pretrained(tmp_path / "saved")
    saved = VideoEncoder.from_pretrained(tmp_path / "saved")
    assert saved.config.base_revision == first
    assert torch.equal(embed_random_clips(saved.base_encoder()), embed_random_clips(old))
    assert f"base_model: {REPO}\n" in saved.model_card()
    assert f"(commit `{first}`)" in saved.model_card()
    with pytest.raises(ValueError, match=r"ada/clip@main: revision is 'v2'; give one revision, in the name or as"):
        load(f"{REPO}@main", revision="v2")
    with pytest.raises(FileNotFoundError, match=r"ada/clip@v9: no such folder, and the download from the hub failed"):
        load(f"{REPO}@v9")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_repositories_that_cannot_be_loaded(hub: FakeHub, files: dict[str, bytes]) -> None:
    with pytest.raises(FileNotFoundError, match=r"ada/none: no such folder, and the download from the hub failed"):
        load("ada/none")
    with pytest.raises(FileNotFoundError, match="the cache does not have its weights, and local_files_only is set"):
        load(local_files_only=True)
    hub.add_files(REPO, {**files, "flax_model.msgpack": b""})
    with pytest.raises(ValueError, match=r"no model\.safetensors and no pytorch_model\.bin; save the model again"):
        load()


def test_a_newer_main_branch_replaces_the_conversion(
    hub: FakeHub, files: dict[str, bytes], weights: bytes, pickled: bytes, tmp_path: Path
) -> None:
    hub.add_files(REPO, {**files, "pytorch_model.bin": pickled})
    hub.add_pull_request(REPO, {"model.safetensors": weights}, author=BOT)
    load()
    reference = tmp_path / "cache" / "models--ada--clip" / "refs" / CONVERSION_REF
    assert reference.read_text() == load(local_files_only=True).config.base_revision
    newer = hub.add_files(REPO, {"README.md": b"newer"})
    assert load().config.base_revision == newer
    assert not reference.exists()
    assert load(local_files_only=True).config.base_revision == newer


def test_split_revision() -> None:
    assert split_revision("ada/clip") == ("ada/clip", None)
    assert split_revision("ada/clip-2.5b@refs/pr/3") == ("ada/clip-2.5b", "refs/pr/3")
    for name in ("clip", "ada/clip@", "a/b/c", "ada/clip@v1@v2", "ada/clip@/v1", "/ada/clip"):
        assert split_revision(name) is None


def test_select_weights() -> None:
    assert select_weights(["pytorch_model.bin", "model.safetensors"]) == ["model.safetensors"]
    assert select_weights(["pytorch_model.bin", "model.fp16.safetensors"]) == ["pytorch_model.bin"]
    assert select_weights(["open_clip_pytorch_model.bin", "flax_model.msgpack"]) == []
