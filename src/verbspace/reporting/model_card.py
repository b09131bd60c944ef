"""Model cards with figures: what was measured, beside the frozen checkpoint, and under which protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from pydantic import ValidationError

from verbspace.config.settings import dump_settings, load_settings
from verbspace.evaluation.benchmarks import BenchmarkResult
from verbspace.evaluation.evaluate import Evaluation
from verbspace.evaluation.multi_label import MultiLabelEvaluation
from verbspace.evaluation.protocol import EvalProtocol
from verbspace.models import hub
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

AnyResult = Evaluation | MultiLabelEvaluation | BenchmarkResult
METRICS = {"top1": ("accuracy", "top-1"), "mean_average_precision": ("mean_average_precision", "mAP")}


def read_result(path: str | Path) -> AnyResult:
    """A result as `verbspace evaluate --out` writes it. Raises FileNotFoundError or ValueError that names the file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file; write one with verbspace evaluate --out {path}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    kind: type[AnyResult] = Evaluation
    if isinstance(content, dict) and "folds" in content:
        kind = BenchmarkResult
        content = {name: content.get(name) for name in BenchmarkResult.model_fields}  # the means are made from these
    elif isinstance(content, dict) and "mean_average_precision" in (content.get("result") or {}):
        kind = MultiLabelEvaluation
    try:
        found: AnyResult = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(
            f"{path}: is no result of verbspace evaluate --out: {place}: {first['msg']}; measure again"
        ) from None
    return found


def results_card(
    encoder: VideoEncoder,
    results: Sequence[AnyResult],
    *,
    name: str = "verbspace encoder",
    config_path: Path | None = None,
) -> str:
    """The README of an encoder with what was measured of it, also as the hub's `model-index`.

    name: of the model. config: a run's
    `config.yaml`, for the training settings. Raises ValueError where a result is of another encoder.
    """
    own = encoder_hash(encoder)
    for result in results:
        for protocol in list_protocols(result):
            if protocol.checkpoint != own:
                raise ValueError(
                    f"the result on {protocol.data} is of the checkpoint {protocol.checkpoint}, and this encoder is "
                    f"{own}; measure this one"
                )
    sections = [_results_table(results)] if results else []
    if config_path is not None:
        sections.append(_training_section(config_path))
    entries = [_eval_result(result) for result in results]
    return encoder.model_card(name=name, results=entries, sections=sections)


def find_run_config(encoder: str | Path) -> Path | None:
    """The `config.yaml` of the run that a saved encoder lies in, where it does."""
    path = Path(encoder)
    if not path.is_dir():
        return None
    folder = hub.resolve_checkpoint(path).resolve()
    beside = folder.parent / "config.yaml"
    return beside if folder.name == "encoder" and beside.is_file() else None


def list_protocols(result: AnyResult) -> list[EvalProtocol]:
    """One, or each split's."""
    folds = result.folds.values() if isinstance(result, BenchmarkResult) else [result]
    return [fold.result.protocol for fold in folds]


def get_dataset_name(result: AnyResult) -> str:
    """The data set's name, or the folder's."""
    return result.name.split("/")[0] if isinstance(result, BenchmarkResult) else list_protocols(result)[0].data


def _metric_and_interval(result: AnyResult, field: str) -> tuple[float, str] | None:
    """The figure of a side and, in words, how sure it is; None where it was not measured."""
    if isinstance(result, BenchmarkResult) and len(result.folds) > 1:
        if any(getattr(fold, field) is None for fold in result.folds.values()):
            return None
        mean, spread = result.mean_and_std(field)
        return mean, f"± {100 * spread:.1f} over {len(result.folds)} splits"
    one = next(iter(result.folds.values())) if isinstance(result, BenchmarkResult) else result
    scores = getattr(one, field)
    if scores is None:
        return None
    low, high = (100 * end for end in scores.ci95)
    return scores.figure, f"95% {low:.1f} to {high:.1f}"


def metric_type_and_name(result: AnyResult) -> tuple[str, str]:
    """What its figure is, for the hub and for people."""
    several = isinstance(result, MultiLabelEvaluation)
    return METRICS[
        result.metric_name if isinstance(result, BenchmarkResult) else "mean_average_precision" if several else "top1"
    ]


def _format_task(protocol: EvalProtocol) -> str:
    return protocol.task if protocol.by is None else f"{protocol.task} by {protocol.by}"


def _results_table(results: Sequence[AnyResult]) -> str:
    lines = [
        "## Figures",
        "",
        "In percent. Frozen is the frame-averaged image checkpoint, measured under the same protocol; intervals are",
        "bootstrapped over videos.",
        "",
        "| data | task | measure | this encoder | frozen |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        cells = []
        for side in ("result", "frozen"):
            found = _metric_and_interval(result, side)
            cells.append("not measured" if found is None else f"{100 * found[0]:.1f} ({found[1]})")
        protocol = list_protocols(result)[0]
        lines.append(
            f"| {_escape_cell(get_dataset_name(result))} | {_format_task(protocol)} | {metric_type_and_name(result)[1]} | {cells[0]} | {cells[1]} |"
        )
    lines += ["", "Protocols:", ""]
    lines += [f"- {_escape_cell(protocol.summary())}" for result in results for protocol in list_protocols(result)]
    return "\n".join(lines) + "\n"


def _escape_cell(text: str) -> str:
    """Text that ends no cell of a table."""
    return text.replace("|", "\\|")


def _eval_result(result: AnyResult) -> EvalResult:
    protocols = list_protocols(result)
    found = _metric_and_interval(result, "result")
    assert found is not None
    kind, measure = metric_type_and_name(result)
    official = isinstance(result, BenchmarkResult)
    data = get_dataset_name(result)
    metric_args: dict[str, Any] = {"protocol": [protocol.summary() for protocol in protocols]}
    frozen = _metric_and_interval(result, "frozen")
    if frozen is not None:
        metric_args["frozen"] = round(frozen[0], 4)
    return EvalResult(
        task_type="video-classification",
        task_name="Action recognition",
        dataset_type=data if official else "own",
        dataset_name=data,
        dataset_config=None if official else protocols[0].data_hash,  # the hub puts together what is alike in these
        metric_type=kind,
        metric_name=f"{_format_task(protocols[0])}, {measure}, {found[1]}",
        metric_value=round(found[0], 4),
        metric_args=metric_args,
    )


def _training_section(config_path: Path) -> str:
    settings = dump_settings(load_settings(config_path)).strip()
    return (
        "## Training\n\nAdapted without labels under these settings of `verbspace adapt`:\n\n"
        f"<details><summary>config.yaml</summary>\n\n```yaml\n{settings}\n```\n\n</details>\n"
    )


def model_card_for(encoder: str | Path, results: Sequence[str | Path]) -> tuple[str, Path | None]:
    """The card of a saved encoder with results from hub, and where its README.md lies (None for one that is not in
    a folder of the user's own)."""
    measured = [read_result(path) for path in results]
    folder = Path(encoder)
    place = hub.resolve_checkpoint(folder) / "README.md" if folder.is_dir() else None
    loaded = VideoEncoder.from_pretrained(encoder)
    return results_card(loaded, measured, name=_model_name(encoder), config_path=find_run_config(encoder)), place


def push_to_hub(
    encoder: str | Path, repo_id: str, results: Sequence[str | Path] = (), *, private: bool | None = None
) -> str:
    """Upload a saved encoder. Returns its address.

    With results, the card has them. Without, the README.md of the encoder's folder goes along as it is, or a card
    without figures where there is none. Raises what `card_of` and `VideoEncoder.push_to_hub` raise.
    """
    measured = [read_result(path) for path in results]
    loaded = VideoEncoder.from_pretrained(encoder)
    card: str | None = None
    if measured:
        card = results_card(loaded, measured, name=repo_id.split("/")[-1], config_path=find_run_config(encoder))
    elif Path(encoder).is_dir() and (own := hub.resolve_checkpoint(encoder) / "README.md").is_file():
        card = own.read_text(encoding="utf-8")
    return loaded.push_to_hub(repo_id, private=private, card=card)


def _model_name(encoder: str | Path) -> str:
    """Of an encoder in a run's folder, the run's."""
    path = Path(encoder)
    if not path.is_dir():
        return str(encoder).split("/")[-1]
    folder = hub.resolve_checkpoint(path).resolve()
    return folder.parent.name if folder.name == "encoder" else folder.name
