"""Run all benchmarks and write the results to docs/benchmarks.json and docs/benchmarks.md.

    python benchmarks/run.py                       # or: make bench; under an hour on two cores
    python benchmarks/run.py --videos FOLDER       # also load real clips; one row per subfolder and file type
    python benchmarks/run.py --only step query     # only these scripts; the rows of the others are kept

docs/benchmarks.json has the rows. In docs/benchmarks.md the table between two markers is generated from it; the text
around the table is written by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from harness import TABLE_HEADER, Row, describe_machine

from verbspace.utils.atomic_io import write_text

BENCHMARK_DIR = Path(__file__).resolve().parent
JSON_PATH, PAGE_PATH = (BENCHMARK_DIR.parent / "docs" / name for name in ("benchmarks.json", "benchmarks.md"))
SCRIPTS = ("import_time", "loading", "embedding", "step", "half_frames", "query", "probe", "memory_scaling")
TABLE_MARKERS = ("<!-- table: benchmarks/run.py -->", "<!-- end of table -->")


def run_script(script: str, options: list[str]) -> list[Row]:
    """Run a script and return its rows. Its other output goes to the terminal."""
    command = [sys.executable, str(BENCHMARK_DIR / f"{script}.py"), "--json", *options]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        sys.exit(f"error: benchmarks/{script}.py failed; rows measured before are kept in docs/benchmarks.json")
    return [Row(**json.loads(line)) for line in process.stdout.splitlines() if line.startswith("{")]


def render_table(results: dict[str, dict[str, Any]]) -> str:
    """Render the rows of all scripts in Markdown, with notes, machine and date."""
    rows = [Row(**row) for script in SCRIPTS if script in results for row in results[script]["rows"]]
    notes = [f"* {row.what}: {row.note}." for row in rows if row.note]
    runs = sorted({f"{result['machine']}, {result['date']}" for result in results.values()})
    table = [TABLE_HEADER, *(row.to_markdown() for row in rows)]
    return "\n".join([*table, "", *notes, "", f"Measured on {'; '.join(runs)}."])


def update_page(results: dict[str, dict[str, Any]]) -> None:
    """Replace the table in docs/benchmarks.md."""
    start, end = TABLE_MARKERS
    before, rest = PAGE_PATH.read_text(encoding="utf-8").split(start)
    write_text(PAGE_PATH, f"{before}{start}\n{render_table(results)}\n{end}{rest.split(end)[1]}")


def main() -> None:
    """Run the scripts; write the results after each of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="scripts to run")
    parser.add_argument("--videos", type=Path, help="folder of real clips for the loading benchmark")
    parser.add_argument("--rounds", type=int, help="number of rounds, for scripts with more than one")
    args = parser.parse_args()
    results: dict[str, dict[str, Any]] = json.loads(JSON_PATH.read_text()) if JSON_PATH.exists() else {}
    for script in args.only:
        print(f"benchmarks/{script}.py", flush=True)
        options = ["--videos", str(args.videos)] if args.videos and script == "loading" else []
        options += ["--rounds", str(args.rounds)] if args.rounds else []
        rows = run_script(script, options)
        for row in rows:
            print(row.to_markdown(), flush=True)
        run = {"machine": describe_machine(), "date": date.today().isoformat()}
        results[script] = {**run, "rows": [vars(row) for row in rows]}
        write_text(JSON_PATH, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        update_page(results)


if __name__ == "__main__":
    main()
