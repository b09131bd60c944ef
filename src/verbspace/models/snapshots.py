"""Find the files of a checkpoint in a folder, in the hub's cache or on the Hugging Face hub."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError
from transformers.safetensors_conversion import previous_pr

from verbspace.utils.atomic_io import write_text
from verbspace.utils.text import first_line

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
PICKLE_FILE = "pytorch_model.bin"
OTHER_SUFFIXES = (".json", ".txt", ".model")  # configs, vocabularies, sentencepiece models
COMMIT = re.compile(r"[0-9a-f]{40}")
# The pull request of the hub's conversion service, by the title and author that `transformers` looks for.
CONVERSION_TITLE = "Adding `safetensors` variant of this model"
CONVERSION_AUTHOR = "SFconvertbot"
# Reference in the cache of a repository to the snapshot of that pull request, for loading without a network.
CONVERSION_REF = "verbspace-safetensors"


def snapshot_commit(folder: Path) -> str | None:
    """Return the commit hash of a folder in the hub's cache, None for other folders."""
    return folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None


def select_weights(names: Collection[str]) -> list[str]:
    """Select the files with the weights: safetensors, else pickles; for a sharded checkpoint the index and its shards.

    Args:
        names: File names of a checkpoint.

    Returns:
        File names, the main file or the index first. Empty if there are no weights.
    """
    for file in (WEIGHTS_FILE, PICKLE_FILE):
        stem, suffix = file.rsplit(".", 1)
        if file in names:
            return [file]
        if (index := f"{file}.index.json") in names:
            return [index, *sorted(name for name in names if fnmatch(name, f"{stem}-*-of-*.{suffix}"))]
    return []


def require_weights(folder: Path) -> Path:
    """Return the file with the weights of a checkpoint, or the index of its shards.

    Raises:
        ValueError: There are no weights, or a shard is missing.
    """
    selected = select_weights([path.name for path in folder.iterdir()])
    if not selected:
        raise ValueError(
            f"{folder}: no {WEIGHTS_FILE} and no {PICKLE_FILE}; save the model again with transformers' "
            "save_pretrained, or pass a revision that has one"
        )
    path = folder / selected[0]
    if path.suffix == ".json":
        try:
            shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not an index of weights: {first_line(error)}; download it again") from error
        missing = sorted(str(shard) for shard in shards if not (folder / str(shard)).is_file())
        if missing:
            raise ValueError(f"{folder}: {missing[0]} of {path.name} is missing; download it again")
    return path


def is_pickle(path: Path | str) -> bool:
    """Whether a file of `select_weights` is a pickle, or the index of pickles."""
    return Path(path).name.startswith(PICKLE_FILE.removesuffix(".bin"))


def download_snapshot(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Download the files of a checkpoint that are needed, and return their folder in the hub's cache.

    The weights are the safetensors of the revision; else, on the main branch, those of the pull request of the hub's
    conversion service, as `transformers` finds it; else pytorch_model.bin. Without a network, they are taken from the
    cache in the same order.

    Args:
        name: Hub id, owner/name.
        revision: Branch, tag or commit. None: the main branch.
        token: Access token. None: that of `hf auth login` or `HF_TOKEN`.
        cache_dir: Folder of the cache. None: that of the hub's client.
        force_download: Download files again that are in the cache.
        local_files_only: Use no network.

    Raises:
        Exception: Any error of the hub's client, if the files are not in the cache either.
    """
    if local_files_only:
        if (folder := _find_cached(name, revision, cache_dir)) is None:
            raise FileNotFoundError("the cache does not have its weights, and local_files_only is set")
        return folder
    try:
        commit, files = _select_files(name, revision, token)
        folder = Path(
            snapshot_download(
                name, revision=commit, token=token, allow_patterns=files, cache_dir=cache_dir,
                force_download=force_download,
            )
        )  # fmt: skip
    except RevisionNotFoundError:
        raise
    except Exception as error:  # network, missing repository, missing permission: the hub has an exception for each
        if (cached := _find_cached(name, revision, cache_dir)) is None:
            raise
        if not isinstance(error, OfflineModeIsEnabled):
            logger.warning("%s: %s; using the snapshot in the cache", name, first_line(error).rstrip(". "))
        return cached
    if revision in (None, "main"):
        _remember_conversion(folder, is_conversion=commit not in (None, "main"))
    return folder


def _select_files(name: str, revision: str | None, token: str | None) -> tuple[str | None, list[str]]:
    """Select the revision to download and its files from the file lists on the hub."""
    api = HfApi(token=token)
    info = api.model_info(name, revision=revision)
    names = [file.rfilename for file in info.siblings or ()]
    weights = select_weights(names)
    if revision in (None, "main") and (not weights or is_pickle(weights[0])):
        pull_request = _find_conversion(api, name, bool(info.private), token)
        if pull_request is not None:
            converted = [file.rfilename for file in api.model_info(name, revision=pull_request).siblings or ()]
            found = select_weights(converted)
            if found and not is_pickle(found[0]):
                revision, names, weights = pull_request, converted, found
    others = [one for one in names if "/" not in one and one.endswith(OTHER_SUFFIXES) and ".index." not in one]
    return revision, [*others, *weights]


def _find_conversion(api: HfApi, name: str, private: bool, token: str | None) -> str | None:
    """Return the reference of the pull request that adds safetensors to the main branch, None if there is none."""
    try:
        pull_request = previous_pr(api, name, CONVERSION_TITLE, token=token)
    except (HfHubHTTPError, IndexError):  # discussions are disabled, or the pull request has no parent commit
        return None
    if pull_request is None or (not private and pull_request.author != CONVERSION_AUTHOR):
        return None
    return f"refs/pr/{pull_request.num}"


def _remember_conversion(folder: Path, *, is_conversion: bool) -> None:
    """Add the reference CONVERSION_REF to the cache, or remove an old one."""
    reference = folder.parent.parent / "refs" / CONVERSION_REF
    with suppress(OSError):  # a cache that cannot be written
        if is_conversion:
            write_text(reference, folder.name)
        else:
            reference.unlink(missing_ok=True)


def _find_cached(name: str, revision: str | None, cache_dir: str | Path | None) -> Path | None:
    """Find a snapshot with weights in the cache; safetensors before pickles."""
    found: list[tuple[Path, bool]] = []
    for one in ("main", CONVERSION_REF) if revision in (None, "main") else (str(revision),):
        config = try_to_load_from_cache(name, "config.json", cache_dir=cache_dir, revision=one)
        if isinstance(config, str):
            with suppress(ValueError):
                found.append((Path(config).parent, is_pickle(require_weights(Path(config).parent))))
    return min(found, key=lambda item: item[1])[0] if found else None
