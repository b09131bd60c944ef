"""Measurements of runs, and the check that they are comparable."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbspace.evaluation.protocol import EvalProtocol
from verbspace.reporting.charts import PointEstimate
from verbspace.reporting.compare.runs import Run
from verbspace.reporting.model_card import (
    AnyResult,
    get_dataset_name,
    list_folds,
    list_protocols,
    metric_type_and_name,
    read_result,
)
from verbspace.reporting.templating import humanize

DEMO_TITLES = {  # by key of the demo's results.json
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "knn": "k-NN",
    "held_out_actions": "held-out actions, zero-shot",
    "images": "clean images, zero-shot",
}
TASK_TITLES = {"zero-shot": "zero-shot", "linear-probe": "linear probe", "knn": "k-NN"}
# Fields of the demo's protocol that describe the run, not the measurement.
_RUN_SPECIFIC_KEYS = ("checkpoint", "training_seeds", "settings", "machine", "concepts")


@dataclass(frozen=True)
class Measurement:
    """One measurement of one run. Measurements are comparable if title and protocol fields are equal.

    Attributes:
        title: Data, task and metric.
        metric: The metric in percent.
        baseline: The same metric of the frozen checkpoint, if it was measured.
        source: File that the measurement was read from.
    """

    title: str
    protocol_fields: dict[str, Any]
    protocol_summary: str
    metric: PointEstimate
    baseline: PointEstimate | None
    source: str

    @property
    def fingerprint(self) -> str:
        """A string that is equal for comparable measurements."""
        return json.dumps([self.title, self.protocol_fields], sort_keys=True)


@dataclass(frozen=True)
class ComparisonRow:
    """One measurement of several runs. If runs have several of its title, `title` also has the differing fields."""

    title: str
    protocol_summary: str
    measurements_by_run: dict[str, Measurement]


def load_measurements(run: Run, results: Mapping[str, AnyResult]) -> list[Measurement]:
    """Load the measurements of a run from its `results/*.json` and `results.json` (of the demo), and from `results`.

    `results` are further results by file name; those of other checkpoints are ignored. A file in the run's folder that
    belongs to another checkpoint is a ValueError.
    """
    measurements: list[Measurement] = []
    run_results = {str(path): read_result(path) for path in sorted((run.folder / "results").glob("*.json"))}
    for path, result in (run_results | dict(results)).items():
        checkpoints = {protocol.checkpoint for protocol in list_protocols(result)}
        if checkpoints == {run.checkpoint}:
            measurements.append(_to_measurement(result, path))
        elif path in run_results:
            raise _checkpoint_error(path, ", ".join(sorted(checkpoints)), run, "verbspace evaluate")
    demo_results = run.folder / "results.json"
    if demo_results.is_file():
        measurements += _demo_measurements(demo_results, run)
    return measurements


def assert_all_results_used(runs: Sequence[Run], results: Mapping[str, AnyResult]) -> None:
    """Raise ValueError if a result belongs to none of the runs."""
    checkpoints = {run.checkpoint for run in runs}
    for path, result in results.items():
        for protocol in list_protocols(result):
            if protocol.checkpoint not in checkpoints:
                raise ValueError(
                    f"{path}: the result belongs to the checkpoint {protocol.checkpoint}, which is none of these "
                    "runs; add its run, or omit the result"
                )


def build_comparison(measurements: dict[str, list[Measurement]]) -> list[ComparisonRow]:
    """Group measurements, by name of the run, into rows. Rows of most runs come first.

    Raises ValueError with the differences if two runs do not have the same protocols for one title.
    """
    rows = []
    for title in dict.fromkeys(measurement.title for each in measurements.values() for measurement in each):
        by_run: dict[str, dict[str, Measurement]] = {}
        for name, each in measurements.items():
            for measurement in each:
                if measurement.title == title:
                    _add_measurement(by_run.setdefault(name, {}), measurement)
        first, *others = by_run
        for other in others:
            if by_run[first].keys() != by_run[other].keys():
                raise ValueError(_mismatch_message(title, first, other, by_run))
        protocols = list(by_run[first].values())
        for measurement in protocols:
            fields = f" · {_distinguishing_fields(measurement, protocols)}" if len(protocols) > 1 else ""
            values = {name: each[measurement.fingerprint] for name, each in by_run.items()}
            rows.append(ComparisonRow(title + fields, measurement.protocol_summary, values))
    tasks = TASK_TITLES.values()
    return sorted(rows, key=lambda row: (-len(row.measurements_by_run), *(task not in row.title for task in tasks)))


def _add_measurement(measurements: dict[str, Measurement], measurement: Measurement) -> None:
    known = measurements.setdefault(measurement.fingerprint, measurement)
    if known.metric.value != measurement.metric.value:
        raise ValueError(
            f"{measurement.source}: {measurement.metric.value:.2f} %, but {known.source} has "
            f"{known.metric.value:.2f} % for the same encoder and protocol; remove one of the files"
        )


def _mismatch_message(title: str, first: str, other: str, by_run: dict[str, dict[str, Measurement]]) -> str:
    """Describe why two runs are not comparable, by the two protocols that differ least."""
    pairs = [
        (a, b)
        for a in by_run[first].values()
        for b in by_run[other].values()
        if a.fingerprint not in by_run[other] or b.fingerprint not in by_run[first]
    ]
    a, b = min(pairs, key=lambda pair: len(_differing_fields(*pair)))
    names = _differing_fields(a, b)[:3]
    differences = ", ".join(f"{name} {_format_field(a, name)} and {_format_field(b, name)}" for name in names)
    return (
        f"{first} and {other} cannot be compared on {title}: their protocols differ in {differences or 'number'} "
        f"({a.source}, {b.source}); evaluate both with the same options of `verbspace evaluate`, or omit one"
    )


def _differing_fields(a: Measurement, b: Measurement) -> list[str]:
    return [
        name
        for name in dict.fromkeys([*a.protocol_fields, *b.protocol_fields])
        if a.protocol_fields.get(name) != b.protocol_fields.get(name)
    ]


def _format_field(measurement: Measurement, name: str) -> str:
    value = measurement.protocol_fields.get(name)
    return "none" if value is None else str(value)


def _distinguishing_fields(measurement: Measurement, others: Sequence[Measurement]) -> str:
    names = dict.fromkeys(name for other in others for name in _differing_fields(measurement, other))
    return ", ".join(f"{name} {_format_field(measurement, name)}" for name in names)


def _to_measurement(result: AnyResult, source: str) -> Measurement:
    protocols, metric = list_protocols(result), _metric_value(result, "result")
    assert metric is not None
    task = TASK_TITLES[protocols[0].task] + (f" by {protocols[0].by}" if protocols[0].by else "")
    fields: dict[str, Any] = {}
    for number, protocol in enumerate(protocols, 1):
        content = protocol.model_dump(mode="json", exclude={"checkpoint", "chosen"})
        content |= {f"detail {name}": value for name, value in content.pop("details").items()}
        prefix = f"split {number}: " if len(protocols) > 1 else ""
        fields |= {prefix + name: value for name, value in content.items()}
    return Measurement(
        title=f"{get_dataset_name(result)}, {task}, {metric_type_and_name(result)[1]}",
        protocol_fields=fields,
        protocol_summary=" | ".join(map(_protocol_summary, protocols)),
        metric=metric,
        baseline=_metric_value(result, "frozen"),
        source=source,
    )


def _protocol_summary(protocol: EvalProtocol) -> str:
    return protocol.model_copy(update={"chosen": {}}).summary().rpartition(" · checkpoint ")[0]


def _metric_value(result: AnyResult, side: str) -> PointEstimate | None:
    """Return the primary metric of a side ("result" or "frozen"), if it was measured."""
    metrics = [getattr(fold, side) for fold in list_folds(result)]
    if None in metrics:
        return None
    ci95 = metrics[0].ci95 if len(metrics) == 1 else None
    return _in_percent(statistics.fmean(each.primary_metric for each in metrics), ci95)


def _in_percent(value: float, ci95: Sequence[float] | None = None) -> PointEstimate:
    return PointEstimate(100 * value, None if ci95 is None else (100 * ci95[0], 100 * ci95[1]))


def _demo_measurements(path: Path, run: Run) -> Iterator[Measurement]:
    """Read the measurements in the demo's results.json."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        protocol = content["protocol"]
        if protocol["checkpoint"]["adapted"] != run.checkpoint:
            raise _checkpoint_error(str(path), protocol["checkpoint"]["adapted"], run, "verbspace demo")
        shared = {name: value for name, value in protocol.items() if name not in _RUN_SPECIFIC_KEYS}
        world = humanize(protocol["world"])
        for key, title in DEMO_TITLES.items():
            # With several seeds, the demo's folder holds the run of the first one.
            metric, baseline = (
                _in_percent(side["by_seed"][0]) if "by_seed" in side else _in_percent(side["top1"], side["ci95"])
                for side in (content[key]["adapted"], content[key]["frozen"])
            )
            clips = content[key]["adapted"]["n"]
            yield Measurement(
                title=f"playground, {title}, top-1",
                protocol_fields={**shared, "clips": clips},
                protocol_summary=f"{protocol['views']} · world: {world} · {clips} clips · {protocol['decoder']}",
                metric=metric,
                baseline=baseline,
                source=str(path),
            )
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        fix = "remove the file, or run the demo again"
        raise ValueError(f"{path}: not a results file of `verbspace demo`; {fix}") from None


def _checkpoint_error(path: str, checkpoint: str, run: Run, command: str) -> ValueError:
    encoder = f"this run's encoder is {run.checkpoint}" if run.checkpoint else "this run is not finished"
    return ValueError(
        f"{path}: the result belongs to the checkpoint {checkpoint}, but {encoder}; run `{command}` again, or remove "
        "the file"
    )
