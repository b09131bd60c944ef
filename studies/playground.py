"""The playground study: synthetic data sets x training seeds x variants, on clips that no setting was chosen on.

    python studies/playground.py --out runs/study                      # everything that docs/results.md reports
    python studies/playground.py --out runs/study --variants full      # one variant
    python studies/playground.py --out runs/tune --split validation --worlds 100 --set losses.alignment=1

Each (variant, world, seed) is one line of `results.jsonl`; existing lines are not run again. Each worker uses one
thread, so training times differ from the demo's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from verbspace.utils.cpu import available_cpus

# variant -> (setting overrides, other differences)
VARIANTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "full": ([], {}),
    "lss": (["method=lss"], {}),
    "without order": (["losses.order=0"], {}),
    "without descriptions": (["losses.consensus=0"], {}),
    "names only": (["losses.consensus=0", "losses.order=0"], {}),
    "cross-view targets only": (["losses.same_view=false"], {}),
    "with description space": (["losses.description=0.5"], {}),
    "with alignment": (["losses.alignment=0.5"], {}),
    "without the prior": (["losses.category_prior=0"], {}),
    "without temporal attention": ([], {"temporal_layers": []}),
    "without temporal difference": ([], {"difference": False}),
    "frame-averaged": ([], {"temporal": False}),
    "without local views": (["views.local_views=0"], {}),
    "half the frames": (["views.global_frames=4", "views.local_frames=2"], {}),
    "one global view": (["views.global_views=1", "views.local_views=6"], {}),
    "long tail": ([], {"long_tail": True}),
    "supervised upper bound": ([], {"supervised": True}),
}


MEASURES = {
    "zero_shot": "zero-shot", "linear_probe": "linear probe", "knn": "k-NN", "held_out_actions": "held-out actions",
    "images": "images", "static_clips": "static clips", "pairs as filmed": "pairs as filmed",
    "pairs reversed": "reversed", "pairs shuffled": "shuffled", "chirality": "chirality probe",
}  # fmt: skip


def build_world(job: dict[str, Any]) -> Path:
    """Render the splits of a job's world that are missing, and return its folder."""
    from verbspace.playground.world import WorldSettings, make_world

    world, long_tail = job["world"], job["extra"].get("long_tail", False)
    folder = Path(job["out"]) / "worlds" / f"{world}{'-long-tail' if long_tail else ''}"
    return make_world(folder, WorldSettings(seed=world, long_tail=long_tail), ("train", "probe", job["split"]))


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one (variant, world, seed) and return its line of the results."""
    import torch

    torch.set_num_threads(1)
    from verbspace.cli.options import parse_overrides
    from verbspace.concepts.concept_set import ConceptSet
    from verbspace.models.video_encoder import VideoEncoder
    from verbspace.playground.actions import TRAIN_ACTIONS
    from verbspace.playground.demo import PLAYGROUND_SETTINGS
    from verbspace.playground.evaluator import WorldEvaluator
    from verbspace.playground.supervised_upper_bound import train_supervised_upper_bound
    from verbspace.training.adapt import adapt, without_difference

    out, extra = Path(job["out"]), job["extra"]
    world = Path(job["folder"])
    temporal = {name: extra[name] for name in ("temporal", "temporal_layers") if name in extra}
    start = VideoEncoder.from_pretrained(job["encoder"], **temporal)
    if not extra.get("difference", True):
        start = without_difference(start)
    evaluator = WorldEvaluator(world, start.image_size, split=job["split"], seed=job["world"])
    settings = parse_overrides(None, [*job["set"], f"training.seed={job['seed']}"], PLAYGROUND_SETTINGS)
    vocabulary = ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    name = "-".join([Path(job["encoder"]).name, job["variant"], str(job["world"]), str(job["seed"]), *job["set"]])
    folder = out / "runs" / name.replace(" ", "-")

    def top1(encoder: Any) -> dict[str, float]:
        return {name: found.top1 for name, found in evaluator.evaluate(encoder).items()}

    began = time.perf_counter()
    if extra.get("supervised"):
        exported = train_supervised_upper_bound(start, world, vocabulary, folder, settings)
    else:
        exported = adapt(start, world / "train", vocabulary, folder, settings)
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {
        "exported": top1(exported),
        "frozen": baseline_top1(out, job, lambda: top1(start) | order_summary(evaluator, start)),
    }
    for alpha in job["alphas"]:
        found[f"alpha {alpha}"] = top1(reinterpolate(start, exported, settings.export_alpha, alpha, folder))
    found["exported"] |= order_summary(evaluator, exported)
    keys = ("encoder", "variant", "world", "seed", "split", "set")
    return {k: job[k] for k in keys} | {"seconds": round(seconds, 1), **found}


def order_summary(evaluator: Any, encoder: Any) -> dict[str, Any]:
    """Measure opposed pairs: the mean accuracy by order of the frames, each pair, and static clips."""
    pairs = [pair.model_dump(mode="json") for pair in evaluator.order_metrics(encoder)]
    means = {f"pairs {name}": statistics.fmean(p["zero_shot"][name] for p in pairs) for name in pairs[0]["zero_shot"]}
    chirality = statistics.fmean(pair["chirality"] for pair in pairs)
    return {**means, "chirality": chirality, "pairs": pairs, "static_clips": evaluator.static_clip_accuracy(encoder)}


def baseline_top1(out: Path, job: dict[str, Any], measure: Any) -> dict[str, Any]:
    """Evaluate frozen CLIP once per world and encoder, because it is the same for every run."""
    from verbspace.utils.atomic_io import write_text

    note = out / "worlds" / f"frozen-{Path(job['encoder']).name}-{job['world']}-{job['split']}.json"
    if not note.exists():
        write_text(note, json.dumps(measure()))
    found: dict[str, Any] = json.loads(note.read_text())
    return found


def reinterpolate(start: Any, exported: Any, export_alpha: float, alpha: float, folder: Path) -> Any:
    """Interpolate with another alpha, from the teacher in the last checkpoint of a run."""
    from safetensors.torch import load_file

    from verbspace.training.checkpoint import list_checkpoints

    teacher = exported.copy()
    teacher.load_state_dict(load_file(list_checkpoints(folder / "state")[-1] / "teacher.safetensors"), strict=False)
    return start.interpolate_with(teacher, alpha)


def render_table(rows: list[dict[str, Any]]) -> str:
    """Render Markdown: one row per variant, mean ± standard deviation of the change against frozen CLIP, in points."""
    lines = ["| variant | runs | " + " | ".join(MEASURES.values()) + " |", "|---|---|" + "---|" * len(MEASURES)]
    parts = [(row["variant"], part) for row in rows for part in row if part == "exported" or part.startswith("alpha")]
    first = [row for row in rows if row["variant"] == rows[0]["variant"]]
    cells = " | ".join(format_mean_std([100 * row["frozen"][m] for row in first], "") for m in MEASURES)
    lines.append(f"| frozen CLIP (level, not change) | {len(first)} | {cells} |")
    for variant, part in dict.fromkeys(parts):
        mine = [row for row in rows if row["variant"] == variant and part in row]
        title = variant if part == "exported" else f"{variant}, {part}"
        cells = " | ".join(
            format_mean_std([100 * (row[part][m] - row["frozen"][m]) for row in mine], "+")
            if m in mine[0][part]
            else ""
            for m in MEASURES
        )
        lines.append(f"| {title} | {len(mine)} | {cells} |")
    return "\n".join(lines)


def render_differences(rows: list[dict[str, Any]], reference: str = "full") -> str:
    """Render Markdown: each variant minus the reference, over the (world, seed) that both have.

    A cell has the mean difference in points and the p value of a paired t-test.
    """
    from scipy.stats import ttest_rel

    def by_run(variant: str) -> dict[tuple[int, int], dict[str, Any]]:
        return {(row["world"], row["seed"]): row["exported"] for row in rows if row["variant"] == variant}

    full = by_run(reference)
    variants = [name for name in dict.fromkeys(row["variant"] for row in rows) if name != reference]
    lines = [
        f"| against {reference} | runs | " + " | ".join(MEASURES.values()) + " |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for variant in variants:
        other = by_run(variant)
        shared = sorted(full.keys() & other.keys())
        if len(shared) < 2:
            continue
        cells = []
        for name in MEASURES:
            first, second = ([100 * found[run][name] for run in shared] for found in (full, other))
            difference = statistics.fmean(second) - statistics.fmean(first)
            p = 1.0 if first == second else float(ttest_rel(second, first).pvalue)
            cells.append(f"{difference:+.1f} (p {'< 0.001' if p < 0.001 else f'{p:.2g}'})")
        lines.append(f"| {variant} | {len(shared)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_mean_std(values: list[float], sign: str) -> str:
    """Format mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.1f}{deviation}"


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", default="playground", help="image checkpoint to adapt")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0 1 2 for `full`, 0 for the rest")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--set", dest="set_", action="append", default=[], metavar="group.key=value")
    parser.add_argument("--alphas", nargs="*", type=float, default=[1.0], help="other export alphas to evaluate")
    parser.add_argument("--workers", type=int, default=available_cpus())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if unknown := [name for name in args.variants if name not in VARIANTS]:
        sys.exit(f"unknown variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}")
    log = args.out / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    jobs = []
    for name in args.variants:
        changes, extra = VARIANTS[name]
        for seed in args.seeds if args.seeds is not None else ([0, 1, 2] if name == "full" else [0]):
            for world in args.worlds:
                job = {
                    "encoder": args.encoder, "variant": name, "world": world, "seed": seed, "split": args.split,
                    "set": changes + args.set_, "extra": extra, "out": str(args.out),
                    "alphas": args.alphas if name == "full" else [],
                }  # fmt: skip
                same = ("encoder", "variant", "world", "seed", "split", "set")
                if not any(all(row[k] == job[k] for k in same) for row in rows):
                    jobs.append(job)
    for job in jobs:
        job["folder"] = str(build_world(job))
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        pending = [pool.submit(run_job, job) for job in jobs]
        for done, future in enumerate(as_completed(pending), 1):
            row = future.result()
            rows.append(row)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            before, after = (100 * row[part]["zero_shot"] for part in ("frozen", "exported"))
            title = f"{row['variant']}, world {row['world']}, seed {row['seed']}"
            change = f"zero-shot {before:.1f} -> {after:.1f}"
            print(f"{done}/{len(jobs)}  {title}: {change}  ({row['seconds']:.0f} s)", flush=True)
    if rows:
        tables = render_table(rows) + "\n\n" + render_differences(rows)
        (args.out / "table.md").write_text(tables + "\n")
        print(tables)


if __name__ == "__main__":
    main()
