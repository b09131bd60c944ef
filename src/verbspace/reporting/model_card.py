"""Model cards with evaluation results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from pydantic import ValidationError

from verbspace.config.settings import dump_settings, load_settings
from verbspace.evaluation.protocol import EvalProtocol
from verbspace.evaluation.results import BenchmarkResult, Evaluation, MultiLabelEvaluation
from verbspace.models import hub
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

AnyResult = Evaluation | MultiLabelEvaluation | BenchmarkResult
METRICS = {  # by field: the hub's metric type, the name to show
    "top1": ("accuracy", "top-1"),
    "mean_average_precision": ("mean_average_precision", "mAP"),
}


def read_result(path: str | Path) -> AnyResult:
    """Read a result file of `verbspace evaluate --out`, or raise ValueError or FileNotFoundError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; create it with verbspace evaluate --out {path}") from None
    except ValueError as error:
        raise ValueError(f"{path}: invalid JSON: {error}") from None
    if (task := _task_of(content)) in ("order", "localization", "retrieval"):
        raise ValueError(
            f"{path}: a result of --protocol {task}, which model cards and comparisons do not show; leave it out, and "
            "keep it outside of a run's folder `results`"
        )
    model: type[AnyResult] = Evaluation
    if isinstance(content, dict) and "folds" in content:
        model = BenchmarkResult
        content = {name: content.get(name) for name in BenchmarkResult.model_fields}  # drops the derived means
    elif isinstance(content, dict) and "mean_average_precision" in (content.get("result") or {}):
        model = MultiLabelEvaluation
    try:
        result: AnyResult = model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "top level"
        reason = f"not a result of verbspace evaluate --out: {field}: {first['msg']}"
        raise ValueError(f"{path}: {reason}; run the evaluation again") from None
    return result


def _task_of(content: Any) -> Any:
    """Return the task of a single evaluation; None if there is none."""
    for name in ("result", "protocol", "task"):
        content = content.get(name) if isinstance(content, dict) else None
    return content


def list_folds(result: AnyResult) -> list[Evaluation | MultiLabelEvaluation]:
    """Return the folds of a benchmark result. A single evaluation is its own only fold."""
    return list(result.folds.values()) if isinstance(result, BenchmarkResult) else [result]


def list_protocols(result: AnyResult) -> list[EvalProtocol]:
    """Return the protocols of a result, one per fold."""
    return [fold.result.protocol for fold in list_folds(result)]


def get_dataset_name(result: AnyResult) -> str:
    """Return the name of the benchmark's data set; of a result on own videos, that of the folder or list."""
    return result.name.split("/")[0] if isinstance(result, BenchmarkResult) else list_protocols(result)[0].data


def metric_type_and_name(result: AnyResult) -> tuple[str, str]:
    """Return the type of the primary metric on the hub, and the name to show."""
    if isinstance(result, BenchmarkResult):
        return METRICS[result.metric_name]
    return METRICS["mean_average_precision" if isinstance(result, MultiLabelEvaluation) else "top1"]


def results_card(
    encoder: VideoEncoder,
    results: Sequence[AnyResult],
    *,
    name: str = "verbspace encoder",
    config_path: Path | None = None,
) -> str:
    """Return the text of a model card with evaluation results, in a table and as the hub's `model-index`.

    `config_path` is the config.yaml of a run, to include the training settings. A result of another encoder is a
    ValueError.
    """
    checkpoint = encoder_hash(encoder)
    for result in results:
        for protocol in list_protocols(result):
            if protocol.checkpoint != checkpoint:
                owner = f"belongs to the checkpoint {protocol.checkpoint}, but this encoder is {checkpoint}"
                raise ValueError(f"the result on {protocol.data} {owner}; evaluate this encoder")
    sections = [_results_section(results)] if results else []
    if config_path is not None:
        sections.append(_training_section(config_path))
    return encoder.model_card(name=name, results=[_eval_result(result) for result in results], sections=sections)


def model_card_for(encoder: str | Path, results: Sequence[str | Path]) -> tuple[str, Path | None]:
    """Return the model card of a saved encoder (a folder, a run folder or a hub id) with results from files.

    The second value is the path of the encoder's README.md, or None for an encoder that is not in a local folder.
    """
    loaded_results = [read_result(path) for path in results]
    name, readme, config_path = _name_and_files(encoder)
    loaded = VideoEncoder.from_pretrained(encoder)
    return results_card(loaded, loaded_results, name=name, config_path=config_path), readme


def push_to_hub(
    encoder: str | Path, repo_id: str, results: Sequence[str | Path] = (), *, private: bool | None = None
) -> str:
    """Upload a saved encoder to the hub repository owner/name, and return its URL.

    The model card has the results from the files `results`. Without them, it is the encoder's README.md, if any.
    """
    loaded_results = [read_result(path) for path in results]
    loaded, card = VideoEncoder.from_pretrained(encoder), None
    _, readme, config_path = _name_and_files(encoder)
    if loaded_results:
        card = results_card(loaded, loaded_results, name=repo_id.split("/")[-1], config_path=config_path)
    elif readme is not None and readme.is_file():
        card = readme.read_text(encoding="utf-8")
    return loaded.push_to_hub(repo_id, private=private, card=card)


def _name_and_files(encoder: str | Path) -> tuple[str, Path | None, Path | None]:
    """Return the name of an encoder or of its run, and the paths of its README.md and of the run's config.yaml."""
    if not Path(encoder).is_dir():
        return str(encoder).split("/")[-1], None, None
    folder = hub.resolve_checkpoint(encoder).resolve()
    if folder.name != "encoder":
        return folder.name, folder / "README.md", None
    config_path = folder.parent / "config.yaml"
    return folder.parent.name, folder / "README.md", config_path if config_path.is_file() else None


def _metric_and_interval(result: AnyResult, side: str) -> tuple[float, str] | None:
    """Return the primary metric of a side ("result" or "frozen") and its uncertainty as text, if it was measured."""
    metrics = [getattr(fold, side) for fold in list_folds(result)]
    if None in metrics:
        return None
    if isinstance(result, BenchmarkResult) and len(metrics) > 1:
        mean, std = result.mean_and_std(side)
        return mean, f"± {100 * std:.1f} over {len(metrics)} splits"
    low, high = (100 * end for end in metrics[0].ci95)
    return metrics[0].primary_metric, f"95% {low:.1f} to {high:.1f}"


def _format_task(protocol: EvalProtocol) -> str:
    return protocol.task if protocol.by is None else f"{protocol.task} by {protocol.by}"


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|")


def _results_section(results: Sequence[AnyResult]) -> str:
    lines = [
        "## Results",
        "",
        "In percent. Frozen is the frame-averaged image checkpoint under the same protocol. Confidence intervals are",
        "bootstrapped over videos.",
        "",
        "| data | task | metric | this encoder | frozen |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        task, metric = _format_task(list_protocols(result)[0]), metric_type_and_name(result)[1]
        cells = [_escape_cell(get_dataset_name(result)), task, metric]
        for side in ("result", "frozen"):
            value = _metric_and_interval(result, side)
            cells.append("not measured" if value is None else f"{100 * value[0]:.1f} ({value[1]})")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Protocols:", ""]
    lines += [f"- {_escape_cell(protocol.summary())}" for result in results for protocol in list_protocols(result)]
    return "\n".join(lines) + "\n"


def _eval_result(result: AnyResult) -> EvalResult:
    protocols, data = list_protocols(result), get_dataset_name(result)
    measured, frozen = _metric_and_interval(result, "result"), _metric_and_interval(result, "frozen")
    assert measured is not None
    metric_type, metric_name = metric_type_and_name(result)
    metric_args: dict[str, Any] = {"protocol": [protocol.summary() for protocol in protocols]}
    if frozen is not None:
        metric_args["frozen"] = round(frozen[0], 4)
    is_benchmark = isinstance(result, BenchmarkResult)
    return EvalResult(
        task_type="video-classification",
        task_name="Action recognition",
        dataset_type=data if is_benchmark else "custom",
        dataset_name=data,
        dataset_config=None if is_benchmark else protocols[0].data_hash,  # the hub merges results of equal data sets
        metric_type=metric_type,
        metric_name=f"{_format_task(protocols[0])}, {metric_name}, {measured[1]}",
        metric_value=round(measured[0], 4),
        metric_args=metric_args,
    )


def _training_section(config_path: Path) -> str:
    settings = dump_settings(load_settings(config_path)).strip()
    return (
        "## Training\n\nAdapted without labels with `verbspace adapt` and these settings:\n\n"
        f"<details><summary>config.yaml</summary>\n\n```yaml\n{settings}\n```\n\n</details>\n"
    )
