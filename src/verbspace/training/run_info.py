"""Provenance of a run: `run.json`, which says what the settings in `config.yaml` do not."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import Record, data_hash, fold_of
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.preview import FrozenStatistics
from verbspace.utils.atomic_io import write_text

RUN_FILE = "run.json"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class EncoderInfo(_Model):
    """The encoder that a run started from.

    Attributes:
        name: Folder or hub id of the image checkpoint.
        revision: Commit hash of the image checkpoint on the hub; None if it is not from the hub.
        hash: `encoder_hash` of the initial encoder.
    """

    name: str | None = None
    revision: str | None = None
    hash: str | None = None


class ConceptSetInfo(_Model):
    """The concept set of a run, by name and hash."""

    name: str
    hash: str


class VideosInfo(_Model):
    """The videos of a run.

    Attributes:
        count: Number of videos.
        hash: `data_hash` of the videos.
        source: Folder or list as it was given; None for a list of paths.
        root: Folder of the videos, if it was given.
        split: Split of the source; None for all.
        fold: Fold of a benchmark; None for other sources.
    """

    count: int
    hash: str
    source: str | None = None
    root: str | None = None
    split: str | None = None
    fold: int | None = None


class RunInfo(_Model):
    """Contents of `run.json`.

    Attributes:
        init_from: Run or checkpoint that training was initialized from.
        frozen: The frozen encoder on a sample of the videos, with the temperatures of the run.
        learning_rate: Peak learning rate of pretrained weights.
        device: The device that the run was started on.
        dtype: The precision that `training.dtype` was resolved to there.
    """

    encoder: EncoderInfo
    concepts: ConceptSetInfo
    videos: VideosInfo | None = None
    init_from: str | None = None
    frozen: FrozenStatistics | None = None
    learning_rate: float | None = None
    device: str | None = None
    dtype: str | None = None
    versions: dict[str, str] = {}
    format: Literal["verbspace-run/1"] = "verbspace-run/1"


def describe_run(
    encoder: VideoEncoder,
    concepts: ConceptSet,
    records: Sequence[Record],
    videos: str | Path | Sequence[str | Path],
    root: str | Path | None,
    split: str | None,
    fold: int | None,
    init_from: str | Path | None,
) -> RunInfo:
    """Return what is known of a run before its first step. See `adapt` for the arguments."""
    return RunInfo(
        encoder=EncoderInfo(
            name=encoder.config.base_name, revision=encoder.config.base_revision, hash=encoder_hash(encoder)
        ),
        concepts=ConceptSetInfo(name=concepts.name, hash=concepts.hash),
        videos=VideosInfo(
            count=len(records),
            hash=data_hash(records),
            source=str(videos) if isinstance(videos, (str, Path)) else None,
            root=None if root is None else str(root),
            split=split,
            fold=fold_of(Path(videos), fold) if isinstance(videos, (str, Path)) else None,
        ),
        init_from=None if init_from is None else str(init_from),
        versions=package_versions(),
    )


def run_identity(info: RunInfo) -> dict[str, Any]:
    """Return what must be the same when a run resumes: encoder, concept set and videos by their hashes, with names."""
    assert info.videos is not None
    source = info.videos.source or "a list"
    identity: dict[str, Any] = {
        "encoder": {"name": info.encoder.name, "hash": info.encoder.hash},
        "concepts": {"name": info.concepts.name, "hash": info.concepts.hash},
        "videos": {"name": f"{info.videos.count} of {source}", "hash": info.videos.hash},
    }
    if info.init_from is not None:  # which may be left out when a run resumes
        identity["init_from"] = info.init_from
    return identity


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version(name) for name in ("verbspace", "torch", "transformers")}


def write_run_info(folder: Path, info: RunInfo) -> None:
    """Write `run.json` to a run's folder."""
    write_text(folder / RUN_FILE, info.model_dump_json(indent=2) + "\n")


def read_run_info(folder: Path) -> RunInfo | None:
    """Read `run.json` of a run's folder; None if there is none, ValueError if it is not valid."""
    file = folder / RUN_FILE
    if not file.is_file():
        return None
    try:
        return RunInfo.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{file}: {field}: {first['msg']}") from None
