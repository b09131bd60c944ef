"""Export features for other programs: one NumPy file per video, in a folder or in a WebDataset tar file."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from verbspace.data.errors import DecodeError
from verbspace.data.sources.inputs import is_url, localize
from verbspace.data.sources.storage import split_segment
from verbspace.inference.embedding import Embedder, embed_windows, prepare_embedder
from verbspace.inference.part_embedder import PartEmbedder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.index import Index
from verbspace.search.schema import FileRows, IndexManifest
from verbspace.search.searcher import load_index_encoder
from verbspace.search.signatures import file_signature
from verbspace.search.stored_files import iterate_files
from verbspace.utils.atomic_io import atomic_write, check_writable, check_writable_folder
from verbspace.utils.progress import ProgressCallback

WriteSample = Callable[[str, Mapping[str, bytes]], None]  # writes the files of a key, by extension


@dataclass
class FeatureSummary:
    """Counts of an export."""

    files: int = 0
    windows: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # reason by path


def export_features(
    index_dir: str | Path,
    out: str | Path,
    *,
    frames: bool = False,
    encoder: VideoEncoder | str | Path | None = None,
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
    on_failure: Callable[[DecodeError], None] | None = None,
) -> FeatureSummary:
    """Write the features of each video of an index: KEY.npy, float32 (N, D), one row per window, and KEY.json.

    KEY is the path of the video below the folder that contains all of them, see `feature_keys`. KEY.json has the path,
    the `start` and `end` of each window in seconds, and the settings of the index.

    Args:
        index_dir: Folder of the index.
        out: Folder, or a .tar file in the format of WebDataset, where the files of a video follow each other.
        frames: Also write KEY.frames.npy, float32 (N, T, D): the parts of the T frames of each window, whose mean is
            the feature of the window. The videos are read again.
        encoder: With `frames`, see `load_index_encoder`.
        device: With `frames`, see `load_encoder`.
        on_progress: Called after each video, with the stage "features".
        on_failure: Called for each video that cannot be read again, which is left out.

    Raises:
        ValueError: If the index is empty, or `out` has another extension.
    """
    index, out = Index.open(index_dir), Path(out)
    if out.suffix and out.suffix != ".tar" and not out.is_dir():
        raise ValueError(f"{out}: features are written to a folder or to a .tar file; give one of them")
    (check_writable if out.suffix == ".tar" else check_writable_folder)(out)
    keys = feature_keys(path for batch in index.scan(("path",), "`window` = 0") for path in batch["path"].to_pylist())
    if not keys:
        raise ValueError(f"{index.folder}: the index is empty; embed videos first")
    embedder: Embedder | None = None
    if frames:
        model = load_index_encoder(index.manifest, index.folder, encoder, device)
        embedder = prepare_embedder(PartEmbedder(model, frames=True), index.manifest.dtype)
    summary = FeatureSummary()
    with _open_writer(out) as write:
        for done, file in enumerate(iterate_files(index), 1):
            try:
                if file.path in keys:
                    write(keys[file.path], _sample(file, index.manifest, embedder))
                    summary.files, summary.windows = summary.files + 1, summary.windows + len(file.starts)
            except DecodeError as error:
                summary.failures[file.path] = error.reason
                if on_failure is not None:
                    on_failure(DecodeError(file.path, error.reason))
            if on_progress is not None:
                on_progress("features", done, len(keys), {})
    return summary


def feature_keys(paths: Iterable[str]) -> dict[str, str]:
    """Return a unique key for each path: below the common folder, without extension, and without dots.

    WebDataset ends a key at the first dot of a file name, so that dots become underscores. Keys that would be equal get
    a number.
    """
    paths = sorted(set(paths))
    folders = {os.path.dirname(split_segment(path)[0]) for path in paths if not is_url(path)}
    root = os.path.commonpath(folders) if folders else ""
    keys: dict[str, str] = {}
    used: set[str] = set()
    for path in paths:
        video, segment = split_segment(path)
        name = PurePosixPath(re.sub(r"^[A-Za-z0-9]+://", "", video) if is_url(video) else os.path.relpath(video, root))
        times = "" if segment is None else f"_{segment.start:g}-{'' if segment.end is None else f'{segment.end:g}'}"
        stem = str(name.with_name(name.stem + times)).replace(".", "_")
        key, number = stem, 2
        while key.casefold() in used:  # file systems of macOS and Windows do not distinguish cases
            key, number = f"{stem}_{number}", number + 1
        used.add(key.casefold())
        keys[path] = key
    return keys


def _sample(file: FileRows, manifest: IndexManifest, embedder: Embedder | None) -> dict[str, bytes]:
    assert file.vectors is not None
    content = {
        "path": file.path, "start": list(file.starts), "end": list(file.ends), "fps": file.fps,
        "encoder": manifest.encoder, "encoder_hash": manifest.encoder_hash, "windows": manifest.describe_windows(),
    }  # fmt: skip
    files = {"npy": _npy(file.vectors)}
    if embedder is not None:
        files["frames.npy"] = _npy(_frame_features(embedder, file, manifest))
    return {**files, "json": json.dumps(content, indent=1).encode()}


def _frame_features(embedder: Embedder, file: FileRows, manifest: IndexManifest) -> np.ndarray:
    """Embed the frames (N, T, D) of the windows of a file again. DecodeError if the file has changed since."""
    signature = file_signature(file.path)
    if signature != file.signature:
        state = "is gone" if signature is None else "has changed"
        raise DecodeError(file.path, f"{state} since it was embedded; run `verbspace embed` again")
    try:
        with localize(file.path) as path:
            found = embed_windows(
                embedder, path, length=manifest.window, stride=manifest.stride, windows=manifest.windows,
                frames=manifest.frames, dtype=manifest.dtype,
            )  # fmt: skip
    except OSError as error:
        raise DecodeError(file.path, str(error)) from None
    frames = found.embeddings.view(len(found.windows), manifest.frames, -1)
    features: np.ndarray = (frames / frames.mean(1, keepdim=True).norm(dim=-1, keepdim=True)).numpy()
    return features


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array.astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


@contextmanager
def _open_writer(out: Path) -> Iterator[WriteSample]:
    """Yield a function that writes the files of a key. A tar file appears at the end, in one step."""
    if out.suffix != ".tar":

        def write_files(key: str, files: Mapping[str, bytes]) -> None:
            for extension, content in files.items():
                target = out / f"{key}.{extension}"
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target) as temp:
                    temp.write_bytes(content)

        yield write_files
        return
    with atomic_write(out) as temp, tarfile.open(temp, "w") as tar:

        def write_members(key: str, files: Mapping[str, bytes]) -> None:
            for extension, content in files.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))

        yield write_members
