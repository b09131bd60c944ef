"""What was measured of runs, and whether it may stand side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbspace.evaluation.protocol import EvalProtocol
from verbspace.evaluation.results import BenchmarkResult
from verbspace.reporting.compare.runs import Run
from verbspace.reporting.model_card import (
    AnyResult,
    get_dataset_name,
    list_protocols,
    metric_type_and_name,
    read_result,
)
from verbspace.reporting.templating import humanize

ConfusionMatrix = list[list[int]]
DEMO_TITLES = {
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "knn": "k-NN",
    "reserved_actions": "reserved actions, zero-shot",
    "stills": "clean stills, zero-shot",
}
TASK_TITLES = {"zero-shot": "zero-shot", "linear-probe": "linear probe", "knn": "k-NN"}
# Of the demo's protocol, what describes the run and not the measurement.
_RUN_SPECIFIC_KEYS = ("checkpoint", "training_seeds", "settings", "machine", "vocabulary")


@dataclass(frozen=True)
class MetricValue:
    """A share, 0 to 1, its 95 % interval (None where it is a mean over splits), and the frozen checkpoint's."""

    value: float
    ci95: tuple[float, float] | None
    baseline: float | None
    baseline_ci95: tuple[float, float] | None
    confusion: ConfusionMatrix | None = None
    baseline_confusion: ConfusionMatrix | None = None


@dataclass(frozen=True)
class Measurement:
    """A figure of one run. title: what people would call the measurement; facts: what its protocol says, by name; two
    figures may stand side by side where title and facts are the same. line: the protocol in words.
    """

    title: str
    protocol_fields: dict[str, Any]
    protocol_summary: str
    metric: MetricValue
    source: str

    @property
    def fingerprint(self) -> str:
        """The same for figures that may stand side by side."""
        return json.dumps([self.title, self.protocol_fields], sort_keys=True)


@dataclass(frozen=True)
class ComparisonRow:
    """One measurement, and each run's figure by the run's name (of those that have one)."""

    title: str
    protocol_summary: str
    concepts: str | None
    metrics_by_run: dict[str, MetricValue]


def load_measurements(run: Run, results: Mapping[str, AnyResult]) -> list[Measurement]:
    """What was measured of a run: `results/*.json` in its folder, the demo's `results.json`, and those of the given
    results, by file, that are of its weights. Raises ValueError for a file in its folder that is of others.
    """
    found: list[Measurement] = []
    own = {str(path): read_result(path) for path in sorted((run.folder / "results").glob("*.json"))}
    for path, result in (own | dict(results)).items():
        checkpoints = {one.checkpoint for one in list_protocols(result)}
        if checkpoints == {run.checkpoint}:
            found.append(_to_measurement(result, path))
        elif path in own:
            raise ValueError(
                f"{path}: was measured on the checkpoint {', '.join(sorted(checkpoints))}, and this run's encoder is "
                f"{run.checkpoint or 'not finished'}; measure again, or take the file away"
            )
    demo = run.folder / "results.json"
    if demo.is_file():
        found += _demo_measurements(demo, run)
    return found


def assert_all_results_used(runs: Sequence[Run], results: Mapping[str, AnyResult]) -> None:
    """Raise ValueError where one of the results is of none of the runs."""
    known = {run.checkpoint for run in runs}
    for path, result in results.items():
        for protocol in list_protocols(result):
            if protocol.checkpoint not in known:
                raise ValueError(
                    f"{path}: was measured on the checkpoint {protocol.checkpoint}, which is none of these runs'; give "
                    "its run as well, or leave it out"
                )


def build_comparison(measurements: dict[str, list[Measurement]]) -> list[ComparisonRow]:
    """Measurements of runs, by the runs' names, put side by side, those that most runs have first.

    Raises ValueError where two runs were measured on the same data and task under unlike protocols: the sentence names
    what differs. A run may have several protocols of one measurement if all have the same ones.
    """
    out = []
    for title in dict.fromkeys(record.title for records in measurements.values() for record in records):
        by_run: dict[str, dict[str, Measurement]] = {}
        for name, records in measurements.items():
            for record in records:
                if record.title == title:
                    _add_measurement(by_run.setdefault(name, {}), record)
        first, *others = by_run
        for other in others:
            if by_run[first].keys() != by_run[other].keys():
                raise ValueError(_mismatch_message(title, first, other, by_run))
        several = len(by_run[first]) > 1
        for key, one in by_run[first].items():
            label = f"{title} · {_distinguishing_fields(one, list(by_run[first].values()))}" if several else title
            figures = {name: records[key].metric for name, records in by_run.items()}
            out.append(ComparisonRow(label, one.protocol_summary, one.protocol_fields.get("concepts"), figures))
    order = [*TASK_TITLES.values()]
    return sorted(out, key=lambda row: (-len(row.metrics_by_run), *(name not in row.title for name in order)))


def _add_measurement(measurements: dict[str, Measurement], measurement: Measurement) -> None:
    before = measurements.setdefault(measurement.fingerprint, measurement)
    if before.metric.value != measurement.metric.value:
        raise ValueError(
            f"{measurement.source}: says {100 * measurement.metric.value:.2f} % and {before.source} "
            f"{100 * before.metric.value:.2f} % of the same encoder and protocol; take one of them away"
        )


def _mismatch_message(title: str, first: str, other: str, by_run: dict[str, dict[str, Measurement]]) -> str:
    """Why two runs cannot stand side by side, by the nearest pair of their protocols."""
    mine, theirs = by_run[first], by_run[other]
    lone = [
        (a, b)
        for a in mine.values()
        for b in theirs.values()
        if a.fingerprint not in theirs or b.fingerprint not in mine
    ]
    a, b = min(lone, key=lambda pair: len(_differing_fields(*pair)))
    what = ", ".join(
        f"{name} {_format_field(a.protocol_fields, name)} and {_format_field(b.protocol_fields, name)}"
        for name in _differing_fields(a, b)[:3]
    )
    return (
        f"{first} and {other} cannot be compared on {title}: their protocols differ in {what or 'number'} "
        f"({a.source}, {b.source}); measure both alike with `verbspace evaluate`, or leave one out"
    )


def _differing_fields(a: Measurement, b: Measurement) -> list[str]:
    return [
        name
        for name in dict.fromkeys([*a.protocol_fields, *b.protocol_fields])
        if a.protocol_fields.get(name) != b.protocol_fields.get(name)
    ]


def _format_field(protocol_fields: dict[str, Any], name: str) -> str:
    value = protocol_fields.get(name)
    return "none" if value is None else str(value)


def _distinguishing_fields(one: Measurement, all_: Sequence[Measurement]) -> str:
    """What tells a protocol from the others of the same measurement."""
    names = {name for other in all_ for name in _differing_fields(one, other)}
    return ", ".join(
        f"{name} {_format_field(one.protocol_fields, name)}" for name in one.protocol_fields if name in names
    )


def _to_measurement(result: AnyResult, source: str) -> Measurement:
    protocols = list_protocols(result)
    task = TASK_TITLES[protocols[0].task] + (f" by {protocols[0].by}" if protocols[0].by else "")
    facts: dict[str, Any] = {}
    for number, protocol in enumerate(protocols, 1):
        content = protocol.model_dump(mode="json", exclude={"checkpoint", "chosen"})
        content |= {f"detail {name}": value for name, value in content.pop("details").items()}
        facts |= content if len(protocols) == 1 else {f"split {number}: {name}": one for name, one in content.items()}
    line = " | ".join(_protocol_summary(protocol) for protocol in protocols)
    return Measurement(
        f"{get_dataset_name(result)}, {task}, {metric_type_and_name(result)[1]}",
        facts,
        line,
        _metric_value(result),
        source,
    )


def _protocol_summary(protocol: EvalProtocol) -> str:
    return protocol.model_copy(update={"chosen": {}}).summary().rpartition(" · checkpoint ")[0]


def _metric_value(result: AnyResult) -> MetricValue:
    if isinstance(result, BenchmarkResult) and len(result.folds) > 1:
        both = all(fold.frozen is not None for fold in result.folds.values())
        return MetricValue(result.mean_and_std()[0], None, result.mean_and_std("frozen")[0] if both else None, None)
    one = next(iter(result.folds.values())) if isinstance(result, BenchmarkResult) else result
    after, before = one.result, one.frozen
    return MetricValue(
        after.primary_metric,
        after.ci95,
        None if before is None else before.primary_metric,
        None if before is None else before.ci95,
        getattr(after, "confusion", None),  # of one label a video
        getattr(before, "confusion", None),
    )


def _demo_measurements(path: Path, run: Run) -> Iterator[Measurement]:
    """The demo's measures as records. Raises ValueError for a file that it did not write."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        protocol = content["protocol"]
        if protocol["checkpoint"]["adapted"] != run.checkpoint:
            raise ValueError(
                f"{path}: was measured on the checkpoint {protocol['checkpoint']['adapted']}, and this run's encoder "
                f"is {run.checkpoint or 'not finished'}; run `verbspace demo` again, or take the file away"
            )
        shared = {name: value for name, value in protocol.items() if name not in _RUN_SPECIFIC_KEYS}
        world = humanize(protocol["world"])
        for name, label in DEMO_TITLES.items():
            both = [content[name]["adapted"], content[name]["frozen"]]
            # A demo of several seeds exports the first; the others are runs of their own.
            values = [one.get("by_seed", [one["top1"]])[0] for one in both]
            intervals = [tuple(one["ci95"]) if "by_seed" not in one else None for one in both]
            facts = {**shared, "clips": both[0]["n"]}
            line = f"{protocol['views']} · world of {world} · {both[0]['n']} clips · {protocol['decoder']}"
            figure = MetricValue(values[0], intervals[0], values[1], intervals[1])
            yield Measurement(f"playground, {label}, top-1", facts, line, figure, str(path))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{path}: is not what `verbspace demo` writes; take it away, or run the demo again") from None
