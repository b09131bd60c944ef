"""What was measured of runs, and whether it may stand side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbspace.evaluation.official import OfficialResult
from verbspace.evaluation.protocol import Protocol
from verbspace.uses.card import Measured, data_of, measure_of, protocols_of, read_result
from verbspace.uses.compare.runs import Run
from verbspace.uses.rendering import in_words

Confusion = list[list[int]]
DEMO = {
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "knn": "k-NN",
    "reserved_actions": "reserved actions, zero-shot",
    "stills": "clean stills, zero-shot",
}
TASKS = {"zero-shot": "zero-shot", "linear-probe": "linear probe", "knn": "k-NN"}
# Of the demo's protocol, what describes the run and not the measurement.
_OF_THE_RUN = ("checkpoint", "training_seeds", "settings", "machine", "vocabulary")


@dataclass(frozen=True)
class Figure:
    """A share, 0 to 1, its 95 % interval (None where it is a mean over splits), and the frozen checkpoint's."""

    value: float
    interval: tuple[float, float] | None
    frozen: float | None
    frozen_interval: tuple[float, float] | None
    confusion: Confusion | None = None
    frozen_confusion: Confusion | None = None


@dataclass(frozen=True)
class Record:
    """A figure of one run. title: what people would call the measurement; facts: what its protocol says, by name; two
    figures may stand side by side where title and facts are the same. line: the protocol in words.
    """

    title: str
    facts: dict[str, Any]
    line: str
    figure: Figure
    source: str

    @property
    def key(self) -> str:
        """The same for figures that may stand side by side."""
        return json.dumps([self.title, self.facts], sort_keys=True)


@dataclass(frozen=True)
class Compared:
    """One measurement, and each run's figure by the run's name (of those that have one)."""

    title: str
    line: str
    concepts: str | None
    figures: dict[str, Figure]


def records_of(run: Run, results: Mapping[str, Measured]) -> list[Record]:
    """What was measured of a run: `results/*.json` in its folder, the demo's `results.json`, and those of the given
    results, by file, that are of its weights. Raises ValueError for a file in its folder that is of others.
    """
    found: list[Record] = []
    own = {str(path): read_result(path) for path in sorted((run.folder / "results").glob("*.json"))}
    for path, result in (own | dict(results)).items():
        checkpoints = {one.checkpoint for one in protocols_of(result)}
        if checkpoints == {run.checkpoint}:
            found.append(_record(result, path))
        elif path in own:
            raise ValueError(
                f"{path}: was measured on the checkpoint {', '.join(sorted(checkpoints))}, and this run's encoder is "
                f"{run.checkpoint or 'not finished'}; measure again, or take the file away"
            )
    demo = run.folder / "results.json"
    if demo.is_file():
        found += _of_the_demo(demo, run)
    return found


def unclaimed(runs: Sequence[Run], results: Mapping[str, Measured]) -> None:
    """Raise ValueError where one of the results is of none of the runs."""
    known = {run.checkpoint for run in runs}
    for path, result in results.items():
        for protocol in protocols_of(result):
            if protocol.checkpoint not in known:
                raise ValueError(
                    f"{path}: was measured on the checkpoint {protocol.checkpoint}, which is none of these runs'; give "
                    "its run as well, or leave it out"
                )


def compared(measured: dict[str, list[Record]]) -> list[Compared]:
    """Measurements of runs, by the runs' names, put side by side, those that most runs have first.

    Raises ValueError where two runs were measured on the same data and task under unlike protocols: the sentence names
    what differs. A run may have several protocols of one measurement if all have the same ones.
    """
    out = []
    for title in dict.fromkeys(record.title for records in measured.values() for record in records):
        by_run: dict[str, dict[str, Record]] = {}
        for name, records in measured.items():
            for record in records:
                if record.title == title:
                    _add(by_run.setdefault(name, {}), record)
        first, *others = by_run
        for other in others:
            if by_run[first].keys() != by_run[other].keys():
                raise ValueError(_unlike(title, first, other, by_run))
        several = len(by_run[first]) > 1
        for key, one in by_run[first].items():
            label = f"{title} · {_apart(one, list(by_run[first].values()))}" if several else title
            figures = {name: records[key].figure for name, records in by_run.items()}
            out.append(Compared(label, one.line, one.facts.get("concepts"), figures))
    order = [*TASKS.values()]
    return sorted(out, key=lambda row: (-len(row.figures), *(name not in row.title for name in order)))


def _add(known: dict[str, Record], record: Record) -> None:
    before = known.setdefault(record.key, record)
    if before.figure.value != record.figure.value:
        raise ValueError(
            f"{record.source}: says {100 * record.figure.value:.2f} % and {before.source} "
            f"{100 * before.figure.value:.2f} % of the same encoder and protocol; take one of them away"
        )


def _unlike(title: str, first: str, other: str, by_run: dict[str, dict[str, Record]]) -> str:
    """Why two runs cannot stand side by side, by the nearest pair of their protocols."""
    mine, theirs = by_run[first], by_run[other]
    lone = [(a, b) for a in mine.values() for b in theirs.values() if a.key not in theirs or b.key not in mine]
    a, b = min(lone, key=lambda pair: len(_differing(*pair)))
    what = ", ".join(f"{name} {_told(a.facts, name)} and {_told(b.facts, name)}" for name in _differing(a, b)[:3])
    return (
        f"{first} and {other} cannot be compared on {title}: their protocols differ in {what or 'number'} "
        f"({a.source}, {b.source}); measure both alike with `verbspace evaluate`, or leave one out"
    )


def _differing(a: Record, b: Record) -> list[str]:
    return [name for name in dict.fromkeys([*a.facts, *b.facts]) if a.facts.get(name) != b.facts.get(name)]


def _told(facts: dict[str, Any], name: str) -> str:
    value = facts.get(name)
    return "none" if value is None else str(value)


def _apart(one: Record, all_: Sequence[Record]) -> str:
    """What tells a protocol from the others of the same measurement."""
    names = {name for other in all_ for name in _differing(one, other)}
    return ", ".join(f"{name} {_told(one.facts, name)}" for name in one.facts if name in names)


def _record(result: Measured, source: str) -> Record:
    protocols = protocols_of(result)
    task = TASKS[protocols[0].task] + (f" by {protocols[0].by}" if protocols[0].by else "")
    facts: dict[str, Any] = {}
    for number, protocol in enumerate(protocols, 1):
        content = protocol.model_dump(mode="json", exclude={"checkpoint", "chosen"})
        content |= {f"detail {name}": value for name, value in content.pop("details").items()}
        facts |= content if len(protocols) == 1 else {f"split {number}: {name}": one for name, one in content.items()}
    line = " | ".join(_line(protocol) for protocol in protocols)
    return Record(f"{data_of(result)}, {task}, {measure_of(result)[1]}", facts, line, _figure(result), source)


def _line(protocol: Protocol) -> str:
    return protocol.model_copy(update={"chosen": {}}).line().rpartition(" · checkpoint ")[0]


def _figure(result: Measured) -> Figure:
    if isinstance(result, OfficialResult) and len(result.folds) > 1:
        both = all(fold.frozen is not None for fold in result.folds.values())
        return Figure(result.figure()[0], None, result.figure("frozen")[0] if both else None, None)
    one = next(iter(result.folds.values())) if isinstance(result, OfficialResult) else result
    after, before = one.result, one.frozen
    return Figure(
        after.figure,
        after.ci95,
        None if before is None else before.figure,
        None if before is None else before.ci95,
        getattr(after, "confusion", None),  # of one label a video
        getattr(before, "confusion", None),
    )


def _of_the_demo(path: Path, run: Run) -> Iterator[Record]:
    """The demo's measures as records. Raises ValueError for a file that it did not write."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        protocol = content["protocol"]
        if protocol["checkpoint"]["adapted"] != run.checkpoint:
            raise ValueError(
                f"{path}: was measured on the checkpoint {protocol['checkpoint']['adapted']}, and this run's encoder "
                f"is {run.checkpoint or 'not finished'}; run `verbspace demo` again, or take the file away"
            )
        shared = {name: value for name, value in protocol.items() if name not in _OF_THE_RUN}
        world = in_words(protocol["world"])
        for name, label in DEMO.items():
            both = [content[name]["adapted"], content[name]["frozen"]]
            # A demo of several seeds exports the first; the others are runs of their own.
            values = [one.get("by_seed", [one["top1"]])[0] for one in both]
            intervals = [tuple(one["ci95"]) if "by_seed" not in one else None for one in both]
            facts = {**shared, "clips": both[0]["n"]}
            line = f"{protocol['views']} · world of {world} · {both[0]['n']} clips · {protocol['decoder']}"
            figure = Figure(values[0], intervals[0], values[1], intervals[1])
            yield Record(f"playground, {label}, top-1", facts, line, figure, str(path))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError):
        raise ValueError(f"{path}: is not what `verbspace demo` writes; take it away, or run the demo again") from None
