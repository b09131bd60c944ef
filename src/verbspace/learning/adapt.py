"""`adapt`: unlabelled videos and a concept set in, an adapted encoder out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.config import AdaptSettings, dump_settings
from verbspace.learning.backward import shard
from verbspace.learning.distiller import Distiller, Weights
from verbspace.learning.lora import add_lora, merged
from verbspace.learning.state import continue_from, find_states, load_moving, moving_state
from verbspace.learning.team import team
from verbspace.learning.trainer import Checks, parameter_groups, train
from verbspace.model.encoder import VideoEncoder
from verbspace.placing import write_text
from verbspace.video.check import known_faults
from verbspace.video.dataset import BadFiles, BadVideo, NoReadableVideo, ViewDataset
from verbspace.video.loading import load_views
from verbspace.video.manifest import Record, data_hash, read_manifest

# Settings of training that may change when a run goes on. Steps count, but by their number alone.
INDIFFERENT = {
    "steps", "epochs", "device", "workers", "cache_mb", "log_every", "save_every", "keep_states",
    "gradient_checkpointing", "accumulate", "compile", "sharding", "check_every", "check_margin",
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
    continued: str | Path | None = None,
    accept_changes: bool = False,
    checks: Callable[[VideoEncoder, AdaptSettings], Checks] | None = None,
    on_step: OnStep | None = None,
    on_bad: Callable[[BadFiles], None] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
    stop_after: int | None = None,
) -> VideoEncoder:
    """Adapt an encoder to videos without labels, in the concept space of `concepts`. Returns the exported encoder.

    videos: paths, or what `read_manifest` reads with root, split and fold; labels are not looked at. out: the run's
    folder; `encoder/` in it is what is returned, `state/` what a second call resumes from, `metrics.jsonl` and
    `config.yaml` the record. The exported weights are `settings.export_share` of the way from the encoder given to the
    adapted teacher. continued: a run, or a state of one, whose student, teacher, centres and means a new run begins
    with. accept_changes: resume though settings have changed. checks(start, settings) makes what looks at the teacher
    between steps.

    on_step(done, steps, values) is called after every step; on_bad(bad) at the end where files could not be read;
    on_note(sentence) where a resumed run differs. Under torchrun or accelerate the processes share the work, and the
    first of them writes and calls. Raises Interrupted after Ctrl-C (resumable) and Collapsed when training fails.
    """
    settings = settings or AdaptSettings()
    with team(settings.training.device) as ranks:
        concepts = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
        start = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
        out = Path(out)
        records, aside = without_known_faults(read_videos(videos, root, split, fold), root or videos)
        training = settings.training

        distiller = build_distiller(start, concepts, settings, ranks.device)
        begin = distiller.fresh_memory()
        if continued is not None and not find_states(out / "state"):
            begin = continue_from(Path(continued), student=distiller.student, teacher=distiller.teacher, memory=begin)
        sharded = ranks.world > 1 and training.sharding == "fsdp"
        if sharded:
            shard(distiller.student)
            shard(distiller.teacher)
        if training.compile:
            for one in (distiller.student, distiller.teacher):
                one.compile(dynamic=False)  # views have two shapes, global and local, and keep them
        dataset = build_dataset(records, distiller.student, concepts, settings)
        bad = BadFiles(len(records) + len(aside))
        bad.add(aside)

        def batches(first: int) -> Iterable[dict[str, Tensor]]:
            return load_views(
                dataset, batch_size=training.batch_size, start=first, workers=training.workers, bad=bad,
                share=ranks.share,
            )  # fmt: skip

        steps = count_steps(settings, len(records))
        if ranks.leads and not find_states(out / "state"):
            head = {"concepts": f"{concepts.name} ({concepts.hash})", "encoder": start.config.base_name}
            head |= {} if continued is None else {"continued": str(continued)}
            write_config(out, settings, head | {"videos": said_of(records, videos, split)})
        train(
            distiller,
            batches,
            build_optimizer(distiller.student, settings),
            out=out,
            **loop_values(settings, steps),
            team=ranks,
            begin=begin,
            accumulate=training.accumulate,
            sharded=sharded,
            facts={
                "encoder": start.config.base_name,
                "concepts": concepts.hash,
                "videos": len(records),
                **telling(settings),
            },
            accept_changes=accept_changes,
            checks=checks(start, settings) if checks else None,
            on_note=on_note if ranks.leads else lambda note: None,
            on_step=(lambda done, values: on_step(done, steps, values)) if on_step and ranks.leads else None,
            stop_after=stop_after,
        )
        for found in ranks.collect(list(bad.reasons.items())):
            bad.reasons.update(found)
        if len(bad) and on_bad and ranks.leads:
            on_bad(bad)
        teacher = trained_encoder(distiller.teacher, start.to(ranks.device), settings, sharded)
        exported = start.interpolated(teacher, settings.export_share)
        exported.concept_set = concepts
        if ranks.leads:
            exported.save_pretrained(out / "encoder")
        ranks.wait()
        return exported


def trained_encoder(
    teacher: VideoEncoder, start: VideoEncoder, settings: AdaptSettings, sharded: bool = False
) -> VideoEncoder:
    """What was trained as an encoder like `start`: whole, and without adapters."""
    if settings.training.train == "temporal+lora":
        return merged(teacher)
    if not sharded:
        return teacher
    plain = start.copy()
    load_moving(plain, moving_state(teacher), "the teacher")
    return plain


def count_steps(settings: AdaptSettings, videos: int) -> int:
    """The number of steps, from the epochs where it is not set itself."""
    training = settings.training
    return training.steps or max(1, round(training.epochs * videos / training.batch_size))


def loop_values(settings: AdaptSettings, steps: int) -> dict[str, Any]:
    """What `train` takes from the settings."""
    training = settings.training
    return {
        "steps": steps,
        "warmup": round(training.warmup * steps),
        "weight_decay": training.weight_decay,
        "teacher_momentum": training.teacher_momentum,
        "centre_momentum": settings.losses.centre_momentum,
        "clip_gradient": training.clip_gradient,
        "autocast": torch.bfloat16 if training.dtype == "bf16" else None,
        "log_every": training.log_every,
        "save_every": training.save_every,
        "keep_states": training.keep_states,
    }


def telling(settings: AdaptSettings) -> dict[str, Any]:
    """The settings that decide how training goes, by dotted name: a resumed run must have the same."""
    groups = settings.model_dump(mode="json", exclude={"export_share": True, "training": INDIFFERENT})
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


def without_known_faults(
    records: list[Record], videos: str | Path | Sequence[str | Path]
) -> tuple[list[Record], list[BadVideo]]:
    """Leave out what `verbspace data check` has found to be bad and what has not changed since. Returns both."""
    if not isinstance(videos, (str, Path)):
        return records, []
    faults = known_faults(Path(videos), [record.file for record in records])
    aside = [BadVideo(n, r.path, faults[r.file]) for n, r in enumerate(records) if r.file in faults]
    kept = [record for record in records if record.file not in faults]
    if not kept:
        raise NoReadableVideo(
            f"{videos}: all {len(records)} videos are bad, says the check's report: {aside[0].reason}"
        )
    return kept, aside


def build_distiller(
    start: VideoEncoder, concepts: ConceptSet, settings: AdaptSettings, device: torch.device
) -> Distiller:
    """Student and teacher from one encoder, and the concept space from its text tower."""
    loss = settings.losses
    student, teacher = start.copy().to(device), start.copy().to(device)
    for encoder in (student, teacher):
        encoder.set_attention(start.attention)
    training = settings.training
    if training.train == "temporal":
        for parameter in student.spatial_parameters():
            parameter.requires_grad_(False)
    elif training.train == "temporal+lora":
        for encoder in (student, teacher):
            add_lora(encoder, training.lora_rank, training.lora_alpha, training.seed)
    if training.gradient_checkpointing:
        student.gradient_checkpointing = True
    shares = None
    if loss.class_shares is not None:
        if set(loss.class_shares) != set(concepts.action_names):
            odd = sorted(set(loss.class_shares) ^ set(concepts.action_names))[0]
            raise ValueError(
                f"losses.class_shares: {odd!r} is not on both sides; give one share for every action of the set"
            )
        shares = torch.tensor([loss.class_shares[name] for name in concepts.action_names])
    return Distiller(
        student,
        teacher,
        ConceptSpace.build(concepts, start.encode_text, 1 / start.logit_scale),
        weights=Weights(loss.category, loss.description, loss.alignment, loss.category_prior, loss.description_prior),
        student_temperature=loss.student_temperature,
        teacher_temperature=loss.teacher_temperature,
        centring=loss.centring,
        prior=shares,
        prior_momentum=loss.prior_momentum,
        slack=loss.prior_slack,
        student_globals=settings.views.student_globals,
    ).to(device)


def build_optimizer(student: VideoEncoder, settings: AdaptSettings) -> torch.optim.Optimizer:
    """AdamW over what is trained; temporal attention at its own rate."""
    training = settings.training
    temporal = {id(parameter) for parameter in student.temporal_parameters()}
    groups = parameter_groups(student, temporal, training.learning_rate, training.temporal_rate)
    if not groups:
        raise ValueError(
            "training.train: there is nothing to train; an encoder without temporal attention needs train: full"
        )
    return torch.optim.AdamW(groups, lr=training.learning_rate, eps=training.adam_epsilon, fused=True)


def build_dataset(
    records: Sequence[Record], encoder: VideoEncoder, concepts: ConceptSet, settings: AdaptSettings
) -> ViewDataset:
    """Views at the encoder's sizes; no flip where left and right carry meaning."""
    view: dict[str, Any] = settings.views.model_dump(exclude={"student_globals"})
    size = view["global_size"] or encoder.image_size
    patch = encoder.patch_size
    view["global_size"] = size
    view["local_size"] = view["local_size"] or max(patch, round(size * 3 / 7 / patch) * patch)
    view["flip"] = 0.0 if concepts.directional else view["flip"]
    view["patch"] = patch
    return ViewDataset(records, seed=settings.training.seed, cache_bytes=settings.training.cache_mb * 2**20, **view)


def said_of(records: Sequence[Record], videos: str | Path | Sequence[str | Path], split: str | None = None) -> str:
    """What a run is trained on: how many videos, of what as it was given, and their hash."""
    name = str(videos) if isinstance(videos, (str, Path)) else "the paths given"
    return f"{len(records)} of {name}{f', {split}' if split else ''} ({data_hash(records)})"


def write_config(out: Path, settings: AdaptSettings, head: Mapping[str, str | None]) -> None:
    """`config.yaml`, with what the settings do not say in its head, a line each by name."""
    lines = [f"# {name}: {value}" for name, value in head.items()]
    # YAML bears no controls in comments, and a name with a line break would end one.
    plain = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) + "\n" for line in lines)
    write_text(out / "config.yaml", "".join(plain) + dump_settings(settings))
