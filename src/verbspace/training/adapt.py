"""`adapt`: unlabelled videos and a concept set in, an adapted encoder out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings, dump_settings
from verbspace.data.dataloader import load_views
from verbspace.data.datasets import ViewDataset
from verbspace.data.errors import DecodeFailure, DecodeFailures, NoReadableVideo
from verbspace.data.sources.manifest import Record, data_hash, read_manifest
from verbspace.data.verify import cached_failures
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.checkpoint import init_from_checkpoint, list_checkpoints, load_trainable, trainable_state_dict
from verbspace.training.distiller import Distiller, LossWeights
from verbspace.training.distributed import init_distributed
from verbspace.training.grad_cache import apply_fsdp
from verbspace.training.lora import add_lora, merge_lora
from verbspace.training.trainer import ValidationCallback, parameter_groups, train
from verbspace.utils.atomic_io import write_text

# Settings of training that may change when a run goes on. Steps count, but by their number alone.
NON_AFFECTING_FIELDS = {
    "steps", "epochs", "device", "num_workers", "frame_cache_mb", "log_interval", "save_interval", "save_total_limit",
    "gradient_checkpointing", "gradient_accumulation_steps", "compile", "distributed_strategy", "val_interval",
    "validation_tolerance",
}  # fmt: skip
OnStep = Callable[[int, int, dict[str, float]], None]


def adapt(
    encoder: VideoEncoder | str | Path,
    videos: str | Path | Sequence[str | Path],
    concepts: ConceptSet | str | Path,
    out: str | Path,
    settings: AdaptSettings | None = None,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    fold: int = 1,
    init_from: str | Path | None = None,
    allow_config_change: bool = False,
    validation_factory: Callable[[VideoEncoder, AdaptSettings], ValidationCallback] | None = None,
    on_step: OnStep | None = None,
    on_decode_failures: Callable[[DecodeFailures], None] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
    max_steps_this_call: int | None = None,
) -> VideoEncoder:
    """Adapt an encoder to videos without labels, in the concept space of `concepts`. Returns the exported encoder.

    videos: paths, or what `read_manifest` reads with root, split and fold; labels are not looked at. out: the run's
    folder; `encoder/` in it is what is returned, `state/` what a second call resumes from, `metrics.jsonl` and
    `config.yaml` the record. The exported weights are `settings.export_alpha` of the way from the encoder given to the
    adapted teacher. continued: a run, or a state of one, whose student, teacher, centres and means a new run begins
    with. accept_changes: resume though settings have changed. checks(start, settings) makes what looks at the teacher
    between steps.

    on_step(done, steps, values) is called after every step; on_bad(bad) at the end where files could not be read;
    on_note(sentence) where a resumed run differs. Under torchrun or accelerate the processes share the work, and the
    first of them writes and calls. Raises Interrupted after Ctrl-C (resumable) and Collapsed when training fails.
    """
    settings = settings or AdaptSettings()
    with init_distributed(settings.training.device) as ranks:
        concepts = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
        start = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
        out = Path(out)
        records, aside = drop_known_bad(read_videos(videos, root, split, fold), root or videos)
        training = settings.training

        distiller = build_distiller(start, concepts, settings, ranks.device)
        begin = distiller.init_state()
        if init_from is not None and not list_checkpoints(out / "state"):
            begin = init_from_checkpoint(
                Path(init_from), student=distiller.student, teacher=distiller.teacher, ema_state=begin
            )
        sharded = ranks.world_size > 1 and training.distributed_strategy == "fsdp"
        if sharded:
            apply_fsdp(distiller.student)
            apply_fsdp(distiller.teacher)
        if training.compile:
            for one in (distiller.student, distiller.teacher):
                one.compile(dynamic=False)  # views have two shapes, global and local, and keep them
        dataset = build_dataset(records, distiller.student, concepts, settings)
        bad = DecodeFailures(len(records) + len(aside))
        bad.add(aside)

        def batches(first: int) -> Iterable[dict[str, Tensor]]:
            return load_views(
                dataset, batch_size=training.batch_size, start=first, num_workers=training.num_workers, failures=bad,
                shard_batch=ranks.shard_batch,
            )  # fmt: skip

        steps = count_steps(settings, len(records))
        if ranks.is_main_process and not list_checkpoints(out / "state"):
            head = {"concepts": f"{concepts.name} ({concepts.hash})", "encoder": start.config.base_name}
            head |= {} if init_from is None else {"continued": str(init_from)}
            write_config(out, settings, head | {"videos": describe_dataset(records, videos, split)})
        train(
            distiller,
            batches,
            build_optimizer(distiller.student, settings),
            out=out,
            **trainer_kwargs(settings, steps),
            distributed=ranks,
            initial_state=begin,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            use_fsdp=sharded,
            fingerprint={
                "encoder": start.config.base_name,
                "concepts": concepts.hash,
                "videos": len(records),
                **result_affecting_settings(settings),
            },
            allow_config_change=allow_config_change,
            validation_callback=validation_factory(start, settings) if validation_factory else None,
            on_note=on_note if ranks.is_main_process else lambda note: None,
            on_step=(lambda done, values: on_step(done, steps, values)) if on_step and ranks.is_main_process else None,
            max_steps_this_call=max_steps_this_call,
        )
        for found in ranks.all_gather_object(list(bad.by_path.items())):
            bad.by_path.update(found)
        if len(bad) and on_decode_failures and ranks.is_main_process:
            on_decode_failures(bad)
        teacher = unwrap_trained_encoder(distiller.teacher, start.to(ranks.device), settings, sharded)
        exported = start.interpolate_with(teacher, settings.export_alpha)
        exported.concept_set = concepts
        if ranks.is_main_process:
            exported.save_pretrained(out / "encoder")
        ranks.barrier()
        return exported


def unwrap_trained_encoder(
    teacher: VideoEncoder, initial_encoder: VideoEncoder, settings: AdaptSettings, use_fsdp: bool = False
) -> VideoEncoder:
    """What was trained as an encoder like `start`: whole, and without adapters."""
    if settings.training.trainable == "temporal+lora":
        return merge_lora(teacher)
    if not use_fsdp:
        return teacher
    plain = initial_encoder.copy()
    load_trainable(plain, trainable_state_dict(teacher), "the teacher")
    return plain


def count_steps(settings: AdaptSettings, num_videos: int) -> int:
    """The number of steps, from the epochs where it is not set itself."""
    training = settings.training
    return training.steps or max(1, round(training.epochs * num_videos / training.batch_size))


def trainer_kwargs(settings: AdaptSettings, steps: int) -> dict[str, Any]:
    """What `train` takes from the settings."""
    training = settings.training
    return {
        "steps": steps,
        "warmup_steps": round(training.warmup_fraction * steps),
        "weight_decay": training.weight_decay,
        "teacher_momentum": training.teacher_momentum,
        "center_momentum": settings.losses.center_momentum,
        "max_grad_norm": training.max_grad_norm,
        "autocast": torch.bfloat16 if training.dtype == "bf16" else None,
        "log_interval": training.log_interval,
        "save_interval": training.save_interval,
        "save_total_limit": training.save_total_limit,
    }


def result_affecting_settings(settings: AdaptSettings) -> dict[str, Any]:
    """The settings that decide how training goes, by dotted name: a resumed run must have the same."""
    groups = settings.model_dump(mode="json", exclude={"export_alpha": True, "training": NON_AFFECTING_FIELDS})
    return {f"{group}.{key}": value for group, fields in groups.items() for key, value in fields.items()}


def read_videos(
    videos: str | Path | Sequence[str | Path], root: str | Path | None = None, split: str | None = None, fold: int = 1
) -> list[Record]:
    """Records without labels, from paths or what `read_manifest` reads."""
    if isinstance(videos, (str, Path)):
        found = read_manifest(videos, root, split=split, fold=fold)
    else:
        found = [Record(Path(path)) for path in videos]
    if not found:
        raise ValueError(f"{videos}: there are no videos here")
    return [Record(record.path, None) for record in found]


def drop_known_bad(
    records: list[Record], videos: str | Path | Sequence[str | Path]
) -> tuple[list[Record], list[DecodeFailure]]:
    """Leave out what `verbspace data verify` has found to be bad and what has not changed since. Returns both."""
    if not isinstance(videos, (str, Path)):
        return records, []
    faults = cached_failures(Path(videos), [record.file for record in records])
    aside = [DecodeFailure(n, r.path, faults[r.file]) for n, r in enumerate(records) if r.file in faults]
    kept = [record for record in records if record.file not in faults]
    if not kept:
        raise NoReadableVideo(f"{videos}: all {len(records)} videos are bad, says the check's report: {aside[0]}")
    return kept, aside


def build_distiller(
    initial_encoder: VideoEncoder, concepts: ConceptSet, settings: AdaptSettings, device: torch.device
) -> Distiller:
    """Student and teacher from one encoder, and the concept space from its text tower."""
    loss = settings.losses
    student, teacher = initial_encoder.copy().to(device), initial_encoder.copy().to(device)
    for encoder in (student, teacher):
        encoder.set_attention(initial_encoder.attention)
    training = settings.training
    if training.trainable == "temporal":
        for parameter in student.spatial_parameters():
            parameter.requires_grad_(False)
    elif training.trainable == "temporal+lora":
        for encoder in (student, teacher):
            add_lora(encoder, training.lora_rank, training.lora_alpha, training.seed)
    if training.gradient_checkpointing:
        student.gradient_checkpointing = True
    shares = None
    if loss.class_prior is not None:
        if set(loss.class_prior) != set(concepts.action_names):
            odd = sorted(set(loss.class_prior) ^ set(concepts.action_names))[0]
            raise ValueError(
                f"losses.class_prior: {odd!r} is not on both sides; give one share for every action of the set"
            )
        shares = torch.tensor([loss.class_prior[name] for name in concepts.action_names])
    return Distiller(
        student,
        teacher,
        initial_encoder.build_concept_space(concepts),
        weights=LossWeights(
            loss.category, loss.description, loss.alignment, loss.category_prior, loss.description_prior
        ),
        student_temperature=loss.student_temperature,
        teacher_temperature=loss.teacher_temperature,
        centering=loss.centering,
        class_prior=shares,
        prior_momentum=loss.prior_momentum,
        prior_margin=loss.prior_margin,
    ).to(device)


def build_optimizer(student: VideoEncoder, settings: AdaptSettings) -> torch.optim.Optimizer:
    """AdamW over what is trained; temporal attention at its own rate."""
    training = settings.training
    temporal = {id(parameter) for parameter in student.temporal_parameters()}
    groups = parameter_groups(student, temporal, training.learning_rate, training.temporal_lr_multiplier)
    if not groups:
        raise ValueError(
            "training.trainable: there is nothing to train; an encoder without temporal attention needs train: full"
        )
    return torch.optim.AdamW(groups, lr=training.learning_rate, eps=training.adam_eps, fused=True)


def build_dataset(
    records: Sequence[Record], encoder: VideoEncoder, concepts: ConceptSet, settings: AdaptSettings
) -> ViewDataset:
    """Views at the encoder's sizes; no flip where left and right carry meaning."""
    return ViewDataset(
        records,
        settings.views.resolve(encoder.image_size, encoder.patch_size, directional=concepts.directional),
        seed=settings.training.seed,
        frame_cache_bytes=settings.training.frame_cache_mb * 2**20,
    )


def describe_dataset(
    records: Sequence[Record], videos: str | Path | Sequence[str | Path], split: str | None = None
) -> str:
    """What a run is trained on: how many videos, of what as it was given, and their hash."""
    name = str(videos) if isinstance(videos, (str, Path)) else "the paths given"
    return f"{len(records)} of {name}{f', {split}' if split else ''} ({data_hash(records)})"


def write_config(out: Path, settings: AdaptSettings, header: Mapping[str, str | None]) -> None:
    """`config.yaml`, with what the settings do not say in its head, a line each by name."""
    lines = [f"# {name}: {value}" for name, value in header.items()]
    # YAML bears no controls in comments, and a name with a line break would end one.
    plain = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) + "\n" for line in lines)
    write_text(out / "config.yaml", "".join(plain) + dump_settings(settings))
