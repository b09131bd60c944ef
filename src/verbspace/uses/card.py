"""Model cards with figures: what was measured, beside the frozen checkpoint, and under which protocol."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from pydantic import ValidationError

from verbspace.config import dump_settings, load_settings
from verbspace.evaluation.evaluate import Evaluation
from verbspace.evaluation.multi_label import MultiLabelEvaluation
from verbspace.evaluation.official import OfficialResult
from verbspace.evaluation.protocol import Protocol, encoder_hash
from verbspace.model import files
from verbspace.model.card import encoder_card
from verbspace.model.encoder import VideoEncoder

Measured = Evaluation | MultiLabelEvaluation | OfficialResult
MEASURES = {"top1": ("accuracy", "top-1"), "mean_average_precision": ("mean_average_precision", "mAP")}


def read_result(path: str | Path) -> Measured:
    """A result as `verbspace evaluate --out` writes it. Raises FileNotFoundError or ValueError that names the file."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: there is no such file; write one with verbspace evaluate --out {path}"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    kind: type[Measured] = Evaluation
    if isinstance(content, dict) and "folds" in content:
        kind = OfficialResult
        content = {name: content.get(name) for name in OfficialResult.model_fields}  # the means are made from these
    elif isinstance(content, dict) and "mean_average_precision" in (content.get("result") or {}):
        kind = MultiLabelEvaluation
    try:
        found: Measured = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(
            f"{path}: is no result of verbspace evaluate --out: {place}: {first['msg']}; measure again"
        ) from None
    return found


def results_card(
    encoder: VideoEncoder,
    results: Sequence[Measured],
    *,
    name: str = "verbspace encoder",
    base_name: str | None = None,
    config: Path | None = None,
) -> str:
    """The README of an encoder with what was measured of it, also as the hub's `model-index`.

    name: of the model. base_name: of the image checkpoint, in the place of the encoder's own. config: a run's
    `config.yaml`, for the training settings. Raises ValueError where a result is of another encoder.
    """
    own = encoder_hash(encoder)
    for result in results:
        for protocol in protocols_of(result):
            if protocol.checkpoint != own:
                raise ValueError(
                    f"the result on {protocol.data} is of the checkpoint {protocol.checkpoint}, and this encoder is "
                    f"{own}; measure this one"
                )
    sections = [_table(results)] if results else []
    if config is not None:
        sections.append(_training(config))
    entries = [_entry(result) for result in results]
    return encoder_card(encoder, base_name=base_name, name=name, results=entries, sections=sections)


def config_of(encoder: str | Path) -> Path | None:
    """The `config.yaml` of the run that a saved encoder lies in, where it does."""
    path = Path(encoder)
    if not path.is_dir():
        return None
    folder = files.find(path).resolve()
    beside = folder.parent / "config.yaml"
    return beside if folder.name == "encoder" and beside.is_file() else None


def protocols_of(result: Measured) -> list[Protocol]:
    """One, or each split's."""
    folds = result.folds.values() if isinstance(result, OfficialResult) else [result]
    return [fold.result.protocol for fold in folds]


def data_of(result: Measured) -> str:
    """The data set's name, or the folder's."""
    return result.name.split("/")[0] if isinstance(result, OfficialResult) else protocols_of(result)[0].data


def _figures(result: Measured, side: str) -> tuple[float, str] | None:
    """The figure of a side and, in words, how sure it is; None where it was not measured."""
    if isinstance(result, OfficialResult) and len(result.folds) > 1:
        if any(getattr(fold, side) is None for fold in result.folds.values()):
            return None
        mean, spread = result.figure(side)
        return mean, f"± {100 * spread:.1f} over {len(result.folds)} splits"
    one = next(iter(result.folds.values())) if isinstance(result, OfficialResult) else result
    scores = getattr(one, side)
    if scores is None:
        return None
    low, high = (100 * end for end in scores.ci95)
    return scores.figure, f"95% {low:.1f} to {high:.1f}"


def measure_of(result: Measured) -> tuple[str, str]:
    """What its figure is, for the hub and for people."""
    several = isinstance(result, MultiLabelEvaluation)
    return MEASURES[
        result.measure if isinstance(result, OfficialResult) else "mean_average_precision" if several else "top1"
    ]


def _task(protocol: Protocol) -> str:
    return protocol.task if protocol.by is None else f"{protocol.task} by {protocol.by}"


def _table(results: Sequence[Measured]) -> str:
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
            found = _figures(result, side)
            cells.append("not measured" if found is None else f"{100 * found[0]:.1f} ({found[1]})")
        protocol = protocols_of(result)[0]
        lines.append(
            f"| {_plain(data_of(result))} | {_task(protocol)} | {measure_of(result)[1]} | {cells[0]} | {cells[1]} |"
        )
    lines += ["", "Protocols:", ""]
    lines += [f"- {_plain(protocol.line())}" for result in results for protocol in protocols_of(result)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text that ends no cell of a table."""
    return text.replace("|", "\\|")


def _entry(result: Measured) -> EvalResult:
    protocols = protocols_of(result)
    found = _figures(result, "result")
    assert found is not None
    kind, measure = measure_of(result)
    official = isinstance(result, OfficialResult)
    data = data_of(result)
    metric_args: dict[str, Any] = {"protocol": [protocol.line() for protocol in protocols]}
    frozen = _figures(result, "frozen")
    if frozen is not None:
        metric_args["frozen"] = round(frozen[0], 4)
    return EvalResult(
        task_type="video-classification",
        task_name="Action recognition",
        dataset_type=data if official else "own",
        dataset_name=data,
        dataset_config=None if official else protocols[0].data_hash,  # the hub puts together what is alike in these
        metric_type=kind,
        metric_name=f"{_task(protocols[0])}, {measure}, {found[1]}",
        metric_value=round(found[0], 4),
        metric_args=metric_args,
    )


def _training(config: Path) -> str:
    settings = dump_settings(load_settings(config)).strip()
    return (
        "## Training\n\nAdapted without labels under these settings of `verbspace adapt`:\n\n"
        f"<details><summary>config.yaml</summary>\n\n```yaml\n{settings}\n```\n\n</details>\n"
    )


def card_of(encoder: str | Path, results: Sequence[str | Path]) -> tuple[str, Path | None]:
    """The card of a saved encoder with results from files, and where its README.md lies (None for one that is not in
    a folder of the user's own)."""
    measured = [read_result(path) for path in results]
    folder = Path(encoder)
    place = files.find(folder) / "README.md" if folder.is_dir() else None
    loaded = VideoEncoder.from_pretrained(encoder)
    return results_card(loaded, measured, name=_name(encoder), config=config_of(encoder)), place


def push(
    encoder: str | Path, repository: str, results: Sequence[str | Path] = (), *, private: bool | None = None
) -> str:
    """Upload a saved encoder. Returns its address.

    With results, the card has them. Without, the README.md of the encoder's folder goes along as it is, or a card
    without figures where there is none. Raises what `card_of` and `VideoEncoder.push_to_hub` raise.
    """
    measured = [read_result(path) for path in results]
    loaded = VideoEncoder.from_pretrained(encoder)
    card: str | None = None
    if measured:
        base = loaded.config.base_name
        card = results_card(loaded, measured, name=repository.split("/")[-1], base_name=base, config=config_of(encoder))
    elif Path(encoder).is_dir() and (own := files.find(encoder) / "README.md").is_file():
        card = own.read_text(encoding="utf-8")
    return loaded.push_to_hub(repository, private=private, card=card)


def _name(encoder: str | Path) -> str:
    """Of an encoder in a run's folder, the run's."""
    path = Path(encoder)
    if not path.is_dir():
        return str(encoder).split("/")[-1]
    folder = files.find(path).resolve()
    return folder.parent.name if folder.name == "encoder" else folder.name
