"""Text vectors on the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers
from torch import Tensor
from torch.nn import functional

from verbspace.concepts.concept_set import ConceptSet
from verbspace.models import text_cache
from verbspace.models.text_cache import CachedTextEncoder, TextVectorStore, text_tower_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.progress import ProgressCallback

DIM = 8


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VERBSPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(text_cache.MAX_MB_VARIABLE, "100")
    return tmp_path / "cache" / "texts"


class CountingTower:
    """Vectors that depend on the call, so that a stored one differs from one that is computed again."""

    def __init__(self, tower: str = "tower", on_progress: ProgressCallback | None = None) -> None:
        self.encoded: list[str] = []
        self.cached = CachedTextEncoder(self.encode, lambda: tower, on_progress=on_progress)

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.encoded += texts
        return functional.normalize(torch.randn(len(texts), DIM), dim=-1)


def cache_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_each_text_is_encoded_once() -> None:
    first, second = CountingTower(), CountingTower()
    vectors = first.cached(["waving", "a", "waving", "jumping up"])
    assert vectors.shape == (4, DIM)
    assert torch.equal(vectors[0], vectors[2])
    assert first.encoded == ["a", "waving", "jumping up"]  # by length
    assert torch.equal(second.cached(["jumping up", "waving"]), vectors[[3, 0]])
    assert not second.encoded
    again = second.cached(["new", "a"])
    assert second.encoded == ["new"]
    assert torch.equal(again[1], vectors[1])
    other = CountingTower("another tower")
    other.cached(["a"])
    assert other.encoded == ["a"]
    assert second.cached([]).shape == (0, DIM)


@pytest.mark.parametrize("damage", ["truncated", "empty", "another value", "another format"])
def test_a_damaged_file_is_written_again(damage: str, cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    CountingTower().cached(["waving", "jumping"])
    (path,) = cache_files(cache_folder)
    content = path.read_bytes()
    damaged = {
        "truncated": content[:-5], "empty": b"", "another value": content[:-1] + bytes([content[-1] ^ 1]),
        "another format": content.replace(b'"vectors"', b'"Vectors"'),
    }  # fmt: skip
    path.write_bytes(damaged[damage])
    tower = CountingTower()
    vectors = tower.cached(["waving", "jumping"])
    assert tower.encoded == ["waving", "jumping"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: damaged (")
    assert torch.equal(CountingTower().cached(["waving", "jumping"]), vectors)
    assert len(caplog.records) == 1


def test_the_least_recently_used_files_are_removed(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {n}" for n in range(1000)]
    for number in range(3):
        CountingTower(f"tower {number}").cached(texts)
        time.sleep(0.02)  # file systems store times in steps
    tower = CountingTower("tower 0")
    tower.cached(["text 5"])  # used, so newer than towers 1 and 2
    assert not tower.encoded
    time.sleep(0.02)
    size = cache_files(cache_folder)[0].stat().st_size
    monkeypatch.setattr(text_cache, "_max_bytes", lambda: 2 * size + 100)
    CountingTower("tower 3").cached(texts)
    assert {path.parent.name for path in cache_files(cache_folder)} == {"tower 0", "tower 3"}


def test_many_files_are_merged(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "_MAX_FILES", 4)
    texts = [f"text {n}" for n in range(12)]
    vectors = [CountingTower().cached([text])[0] for text in texts]
    assert len(cache_files(cache_folder)) <= 4
    tower = CountingTower()
    assert torch.equal(tower.cached(texts), torch.stack(vectors))
    assert not tower.encoded


def test_several_writers(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "_MAX_FILES", 4)
    sets = [[f"text {n}" for n in range(start, start + 10)] for start in range(0, 100, 5)]
    with ThreadPoolExecutor(8) as pool:
        shapes = list(pool.map(lambda texts: CountingTower().cached(texts).shape, sets))
    assert set(shapes) == {(10, DIM)}
    assert not [path for path in cache_files(cache_folder) if path.suffix != ".safetensors"]
    texts = [text for texts in sets for text in texts]
    vectors = CountingTower().cached(texts)  # encodes what a merge removed, if a writer did not see it
    tower = CountingTower()
    assert torch.equal(tower.cached(texts), vectors)
    assert not tower.encoded


def test_another_writer_merges_first(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "_MAX_FILES", 0)
    merge = text_cache.TextVectorStore._merge

    def merge_late(store: text_cache.TextVectorStore, paths: Sequence[Path]) -> Path | None:
        for path in paths:
            path.unlink()
        return merge(store, paths)

    monkeypatch.setattr(text_cache.TextVectorStore, "_merge", merge_late)
    assert CountingTower().cached(["waving"]).shape == (1, DIM)
    assert not cache_files(cache_folder)


def test_switched_off(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(text_cache.MAX_MB_VARIABLE, "0")
    tower = CountingTower()
    tower.cached(["waving"])
    tower.cached(["waving"])
    assert tower.encoded == ["waving", "waving"]
    assert not cache_folder.exists()
    monkeypatch.setenv(text_cache.MAX_MB_VARIABLE, "much")
    with pytest.raises(ValueError, match="VERBSPACE_TEXT_CACHE_MB=much: not a size in MB; write a number such as 500"):
        CountingTower().cached(["waving"])


def test_a_folder_that_cannot_be_written(cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache_folder.parent.write_text("a file")
    assert CountingTower().cached(["waving"]).shape == (1, DIM)
    assert "text vectors are not stored" in caplog.text


def test_an_interruption_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = CountingTower()

    def encode(texts: Sequence[str]) -> Tensor:
        if tower.encoded:
            raise KeyboardInterrupt
        return CountingTower.encode(tower, texts)

    interrupted = CachedTextEncoder(encode, lambda: "tower")
    texts = [f"text {n:03}" for n in range(100)]
    with pytest.raises(KeyboardInterrupt):
        interrupted(texts)
    assert 0 < len(tower.encoded) < 100
    second = CountingTower()
    second.cached(texts)
    assert sorted([*tower.encoded, *second.encoded]) == texts


def test_progress_of_slow_encoding(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "verbspace")
    now = [0.0]
    monkeypatch.setattr(text_cache.time, "monotonic", lambda: now[0])
    calls: list[tuple[str, int, int]] = []

    def on_progress(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        calls.append((stage, done, total))

    class Slow(CountingTower):
        def encode(self, texts: Sequence[str]) -> Tensor:
            now[0] += 0.1 * len(texts)
            return super().encode(texts)

    Slow(on_progress=on_progress).cached([f"text {n}" for n in range(200)])
    assert calls[0] == ("encode texts", 0, 200)
    assert calls[-1] == ("encode texts", 200, 200)
    assert len(calls) > 3
    assert not caplog.records
    Slow("another tower").cached([f"text {n}" for n in range(200)])
    assert [record.getMessage() for record in caplog.records] == ["encoding 200 texts, about 20 s"]
    calls.clear()
    Slow(on_progress=on_progress).cached([f"few {n}" for n in range(10)])  # fast
    Slow(on_progress=on_progress).cached([f"text {n}" for n in range(200)])  # stored
    assert not calls


def tower_hash(encoder: VideoEncoder) -> str:
    return text_tower_hash(encoder.base, encoder.require_processor(), encoder.device)


@pytest.mark.parametrize("checkpoint", ["tiny_clip", "tiny_metaclip2", "tiny_siglip", "tiny_siglip2"])
def test_the_hash_is_that_of_the_text_tower(
    checkpoint: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = VideoEncoder.from_pretrained(request.getfixturevalue(checkpoint))
    expected = tower_hash(encoder)
    encoder.encode_text(["waving", "jumping up and down"])  # changes the padding of the tokenizer
    assert tower_hash(encoder) == expected
    with torch.no_grad():
        for parameter in (*encoder.temporal_parameters(), *encoder.spatial_parameters()):
            parameter.add_(0.1)
    assert tower_hash(encoder) == expected
    encoder.save_pretrained(tmp_path / "adapted")
    adapted = VideoEncoder.from_pretrained(tmp_path / "adapted")
    assert tower_hash(adapted) == expected
    assert tower_hash(adapted.copy().to(torch.bfloat16)) != expected
    for name, parameter in encoder.base.named_parameters():
        if name.startswith("text_"):
            changed = encoder.copy()
            with torch.no_grad():
                dict(changed.base.named_parameters())[name].view(-1)[-1] += 0.01
            assert tower_hash(changed) != expected, name
            assert parameter.numel()
    adapted.require_processor().tokenizer.backend_tokenizer.normalizer = normalizers.Replace("a", "b")
    assert tower_hash(adapted) != expected


def test_concept_spaces_read_the_cache(tiny_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, concepts = VideoEncoder.from_pretrained(tiny_clip), ConceptSet.load("playground")
    encode_text, encoded = VideoEncoder.encode_text, list[str]()

    def counting_encode_text(self: VideoEncoder, texts: Sequence[str], **options: int) -> Tensor:
        encoded.extend(texts)
        return encode_text(self, texts, **options)

    monkeypatch.setattr(VideoEncoder, "encode_text", counting_encode_text)
    names_only = encoder.build_concept_space(concepts, with_descriptions=False)
    assert len(encoded) == len(concepts.actions) * len(concepts.templates)
    assert not names_only.description_texts
    full = encoder.build_concept_space(concepts)
    texts = {description.text for description in concepts.descriptions}
    assert set(encoded[len(names_only.action_names) * len(concepts.templates) :]) == texts
    assert torch.equal(full.categories, names_only.categories)
    encoded.clear()
    again = VideoEncoder.from_pretrained(tiny_clip).build_concept_space(concepts)
    assert len(encoded) == 2  # by the check of a loaded checkpoint
    for name, tensor in full.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_store_survives_files_that_vanish(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CountingTower().cached(["waving"])
    (path,) = cache_files(cache_folder)
    read = text_cache._read

    def vanishing(file: Path) -> tuple[list[bytes], Tensor]:
        file.unlink(missing_ok=True)
        return read(file)

    monkeypatch.setattr(text_cache, "_read", vanishing)
    assert TextVectorStore(path.parent, 10**6).read(["waving"]) == {}
