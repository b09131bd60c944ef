"""`adapt`: from unlabeled videos and a concept set to an adapted encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import AdaptSettings, dump_settings, result_affecting_settings
from verbspace.data.dataloader import load_views
from verbspace.data.datasets import ViewDataset
from verbspace.data.errors import DecodeFailure, DecodeFailures, NoReadableVideo
from verbspace.data.sources.manifest import Record, read_manifest
from verbspace.data.verify import cached_failures
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.checkpoint import (
    check_fingerprint,
    init_from_checkpoint,
    list_checkpoints,
    load_trainable,
    read_metadata,
    trainable_state_dict,
)
from verbspace.training.distiller import Distiller
from verbspace.training.distributed import apply_fsdp, init_distributed
from verbspace.training.loggers import ProgressReport
from verbspace.training.lora import add_lora, merge_lora, select_trainable
from verbspace.training.loss_scales import LossScales, resolve_loss_scales
from verbspace.training.optimizer import build_optimizer, pretrained_learning_rate
from verbspace.training.preview import (
    NUM_PREVIEW_VIDEOS,
    RunPreview,
    embed_sample,
    frozen_statistics,
    preview_run,
    sample_records,
)
from verbspace.training.run_info import describe_run, read_run_info, run_identity, write_run_info
from verbspace.training.trainer import Callback, Trainer
from verbspace.training.watches import CollapseWatch, DriftWatch
from verbspace.utils.atomic_io import write_text
from verbspace.utils.device import device_name
from verbspace.utils.malloc import disable_malloc_trim
from verbspace.utils.progress import ProgressCallback

logger = logging.getLogger(__name__)
MIN_HELD_OUT = 20 * NUM_PREVIEW_VIDEOS


def adapt(
    encoder: VideoEncoder | str | Path,
    videos: str | Path | Sequence[str | Path],
    concepts: ConceptSet | str | Path,
    out: str | Path,
    settings: AdaptSettings | None = None,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    fold: int | None = None,
    init_from: str | Path | None = None,
    allow_config_change: bool = False,
    callbacks: Sequence[Callback] = (),
    on_start: Callable[[RunPreview], None] | None = None,
    on_progress: ProgressCallback | None = None,
    on_failures: Callable[[DecodeFailures], None] | None = None,
    max_steps_this_call: int | None = None,
) -> VideoEncoder:
    """Adapt an encoder to unlabeled videos, in the concept space of a concept set.

    A second call with the same arguments resumes an unfinished run. Under torchrun or accelerate the processes share
    the work; the first one writes files and calls `on_start`, `on_progress` and `on_failures`.

    Before the first step the frozen encoder embeds a sample of the videos. Temperatures follow from it, and the run is
    compared with it (`training.watches`). In a collection of `MIN_HELD_OUT` videos or more the sample is not trained
    on.

    Args:
        encoder: Image checkpoint of the CLIP family or a video encoder, as `VideoEncoder.from_pretrained` takes it. An
            encoder object is not changed.
        videos: Paths, or a source that `read_manifest` reads with `root`, `split` and `fold`. Labels are ignored.
        concepts: Concept set, its bundled name, or its file.
        out: The run's folder. It gets `config.yaml`, `run.json`, `metrics.jsonl`, checkpoints in `state/`, and the
            returned encoder in `encoder/`.
        settings: All settings; defaults if not given.
        root: Folder of the videos, if the list is elsewhere.
        split: Split of a benchmark's own lists.
        fold: Fold of a benchmark's own lists.
        init_from: Run folder or checkpoint whose student, teacher and running statistics a new run starts from.
        allow_config_change: Resume although settings have changed.
        callbacks: Trainer callbacks, such as `ZeroShotValidation`.
        on_start: Called before the first step of a new run.
        on_progress: Called after every step, with the step's metrics if it is logged.
        on_failures: Called at the end if videos could not be read.
        max_steps_this_call: Save and return after this step. Schedules do not change.

    Returns:
        The exported encoder: weights interpolated between the given encoder and the adapted teacher, by
        `settings.export_alpha`.

    Raises:
        TrainingInterrupted: After Ctrl-C or SIGTERM; the run can be resumed.
        TrainingCollapsed: If training failed.
        ValueError: If an argument or setting does not fit, or settings of a run to resume have changed.
    """
    settings, out = settings or AdaptSettings(), Path(out)
    with init_distributed(settings.training.device) as distributed:
        if distributed.device.type == "cpu":
            disable_malloc_trim()
        dtype = distributed.resolve_precision(settings.training.dtype)
        training = settings.training.model_copy(update={"dtype": dtype})
        settings = settings.model_copy(update={"training": training})
        concepts = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
        if len(concepts.actions) < 2:
            raise ValueError(
                f"concept set {concepts.name!r}: has one action, which is right for every video, so there is nothing "
                "to learn; give two or more"
            )
        start = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
        if settings.method == "lss":
            start = without_difference(start)
        records, known_bad = drop_known_bad(read_videos(videos, root, split, fold), root or videos)
        is_new = not list_checkpoints(out / "state")
        sample, records = hold_out_sample(records)
        num_steps = training.num_steps(len(records))
        info = describe_run(start, concepts, records, videos, root, split, fold, init_from)
        fingerprint = {**run_identity(info), **result_affecting_settings(settings)}
        check_run(out, {**fingerprint, "steps": num_steps}, allow_config_change)

        frozen = start.copy().to(distributed.device)
        text_progress = on_progress if distributed.is_main_process else None
        space = frozen.build_concept_space(concepts, on_progress=text_progress)
        unmeasured = resolve_loss_scales(settings.losses, {"category": 1.0, "description": 1.0})
        distiller = build_distiller(start, space, settings, distributed.device, unmeasured)
        ema_state = distiller.init_state()
        if init_from is not None and is_new:
            ema_state = init_from_checkpoint(Path(init_from), distiller.student, distiller.teacher, ema_state)
        dataset = build_dataset(records, distiller.student, concepts, settings)

        # Everything that the user gave has been read and checked; from here on there is work to lose.
        report = on_progress if is_new and distributed.is_main_process else None
        sample, parts = embed_sample(frozen, sample, space, settings, report, distributed)
        statistics = distributed.all_gather_object(frozen_statistics(parts, space, settings))[0]
        if not is_new and (earlier := read_run_info(out)) is not None and earlier.frozen is not None:
            statistics = earlier.frozen
        distiller.set_scales(statistics.scales, statistics.target_scale)
        for module in (distiller.student, distiller.teacher):
            if distributed.world_size > 1 and training.distributed_strategy == "fsdp":
                apply_fsdp(module)
            if training.compile:
                module.compile(dynamic=False)  # there are two input shapes, global and local views
        failures = DecodeFailures(len(records) + len(known_bad))
        failures.add(known_bad)

        def batches(step: int) -> Iterator[dict[str, Tensor]]:
            return load_views(
                dataset, batch_size=training.batch_size, start=step, num_workers=training.num_workers,
                failures=failures, shard_batch=distributed.shard_batch,
            )  # fmt: skip

        if distributed.is_main_process and is_new:
            for sentence in statistics.warnings():
                logger.warning(sentence)
            if on_start is not None:
                on_start(preview_run(frozen, statistics, settings, len(records), distributed.world_size))
        if distributed.is_main_process:
            if is_new or allow_config_change:
                measured = {
                    "frozen": statistics,
                    "learning_rate": pretrained_learning_rate(distiller.student, training),
                    "device": device_name(distributed.device),
                    "dtype": dtype,
                }
                write_run_info(out, info.model_copy(update=measured))
            write_text(out / "config.yaml", dump_settings(settings))
        del frozen  # another encoder in the device's memory
        trainer = Trainer(
            distiller,
            build_optimizer(distiller.student, training),
            training,
            num_steps=num_steps,
            out=out,
            callbacks=[
                CollapseWatch(statistics),
                DriftWatch(sample, parts[:, : start.embedding_dim], space, settings.views.global_frames),
                *callbacks,
                *([ProgressReport(on_progress)] if on_progress else []),
            ],
            distributed=distributed,
            ema_state=ema_state,
            fingerprint=fingerprint,
        )
        if distributed.is_main_process:
            logger.info("training on %s in %s", distributed.device, dtype)
        trainer.resume(allow_config_change)
        if trainer.step == num_steps and distributed.is_main_process:
            logger.info("%s: this run is finished after %d steps; its encoder is saved again", out, num_steps)
        trainer.fit(batches, max_steps_this_call)
        for by_path in distributed.all_gather_object(list(failures.by_path.items())):
            failures.by_path.update(by_path)
        if len(failures) and distributed.is_main_process:
            logger.warning(failures.summary())
            if on_failures:
                on_failures(failures)
        initial = start.copy()
        initial.to(distributed.device)
        teacher = export_teacher(distiller.teacher, initial, settings)
        exported = initial.interpolate_with(teacher, settings.export_alpha)
        exported.concept_set = concepts
        if distributed.is_main_process:
            exported.save_pretrained(out / "encoder")
        distributed.barrier()
        return exported


def check_run(out: Path, fingerprint: Mapping[str, Any], allow_config_change: bool) -> None:
    """Raise ValueError if a run in a folder, unfinished or finished, is not that of `fingerprint`."""
    checkpoints = list_checkpoints(out / "state")
    if checkpoints and not allow_config_change:
        check_fingerprint(checkpoints[-1], read_metadata(checkpoints[-1]), fingerprint)
    if not checkpoints and (out / "encoder" / "config.json").exists():
        raise ValueError(
            f"{out}: contains an encoder, but no checkpoint in state/ that says what it was trained with; use another "
            "--out, or delete this folder"
        )


def export_teacher(teacher: VideoEncoder, initial_encoder: VideoEncoder, settings: AdaptSettings) -> VideoEncoder:
    """Return the teacher as a plain encoder: adapters merged, shards gathered."""
    training, plain = settings.training, teacher
    if isinstance(teacher, FSDPModule):  # which cannot be copied
        plain = initial_encoder.copy()
        if training.trainable == "temporal+lora":
            add_lora(plain, training.lora_rank, training.lora_alpha)
        load_trainable(plain, trainable_state_dict(teacher), "the teacher")
    return merge_lora(plain) if training.trainable == "temporal+lora" else plain


def without_difference(encoder: VideoEncoder) -> VideoEncoder:
    """Return a copy that pools frames with the mean alone; ValueError if its temporal difference is trained."""
    plain = encoder.copy()
    if plain.difference is not None and plain.difference.weight.any():
        raise ValueError("method: lss has no temporal difference, and that of this encoder is trained; start from CLIP")
    plain.difference, plain.config.temporal_difference = None, False
    return plain


def read_videos(
    videos: str | Path | Sequence[str | Path],
    root: str | Path | None = None,
    split: str | None = None,
    fold: int | None = None,
) -> list[Record]:
    """Read records without labels. For the arguments see `adapt`; ValueError if there are no videos."""
    if isinstance(videos, (str, Path)):
        records = read_manifest(videos, root, split=split, fold=fold)
    elif (root, split, fold) != (None, None, None):
        raise ValueError("videos: root, split and fold are for folders and lists; paths are given as they are")
    else:
        records = [Record(Path(path)) for path in videos]
    if not records:
        raise ValueError(f"{videos}: no videos found; pass a folder or list that has some")
    return [Record(record.path, None) for record in records]


def drop_known_bad(
    records: list[Record], videos: str | Path | Sequence[str | Path]
) -> tuple[list[Record], list[DecodeFailure]]:
    """Drop videos that `verbspace data verify` found unreadable, unless the file has changed since.

    Args:
        records: All records.
        videos: The source that was verified; for a list of paths nothing is dropped.

    Returns:
        The other records, and a failure for each dropped one.

    Raises:
        NoReadableVideo: If no record is left.
    """
    if not isinstance(videos, (str, Path)):
        return records, []
    failures = cached_failures(Path(videos), [record.file for record in records])
    dropped = [DecodeFailure(n, r.path, failures[r.file]) for n, r in enumerate(records) if r.file in failures]
    readable = [record for record in records if record.file not in failures]
    if not readable:
        raise NoReadableVideo(
            f"{videos}: `verbspace data verify` found all {len(records)} videos unreadable; the first: {dropped[0]}"
        )
    return readable, dropped


def hold_out_sample(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Return a sample of the videos, and the videos to train on: without the sample if there are many."""
    sample = sample_records(records)
    if len(records) < MIN_HELD_OUT:
        return sample, records
    held_out = {record.path for record in sample}
    return sample, [record for record in records if record.path not in held_out]


def build_distiller(
    initial_encoder: VideoEncoder,
    space: ConceptSpace,
    settings: AdaptSettings,
    device: torch.device,
    scales: LossScales | None = None,
) -> Distiller:
    """Build student and teacher as copies of one encoder."""
    student, teacher = initial_encoder.copy().to(device), initial_encoder.copy().to(device)
    for encoder in (student, teacher):
        encoder.set_attention(initial_encoder.attention)
    select_trainable(student, teacher, settings.training)
    return Distiller(student, teacher, space, settings.losses, scales).to(device)


def build_dataset(
    records: Sequence[Record], encoder: VideoEncoder, concepts: ConceptSet, settings: AdaptSettings
) -> ViewDataset:
    """Build the dataset of views at the encoder's sizes. Views of directional concept sets are never flipped."""
    return ViewDataset(
        records,
        settings.views.resolve(encoder.image_size, encoder.patch_size, directional=concepts.directional),
        seed=settings.training.seed,
        frame_cache_bytes=settings.training.frame_cache_mb * 2**20,
    )
