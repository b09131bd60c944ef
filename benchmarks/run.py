"""Everything side by side: every script's rows, written into docs/benchmarks.md.

    python benchmarks/run.py                       # or: make bench; under an hour on two cores
    python benchmarks/run.py --videos FOLDER       # real clips too, by the folder's folders
    python benchmarks/run.py --only step query     # these rows; the others stay as they were

The rows are kept in docs/benchmarks.json; the table in docs/benchmarks.md stands between two marks, and the words
around it are written by hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from pathlib import Path

from harness import TABLE_HEADER, Row, describe_machine

from verbspace.utils.atomic_io import write_text

BENCHMARK_DIR = Path(__file__).resolve().parent
DOCS_DIR = BENCHMARK_DIR.parent / "docs"
SCRIPTS = ("import_time", "loading", "embedding", "step", "half_frames", "query", "probe", "memory_scaling")
TABLE_MARKERS = ("<!-- table: benchmarks/run.py -->", "<!-- end of table -->")


def run_script(script: str, extra: list[str]) -> list[Row]:
    """Run a script. What it says of its own accord goes to the terminal."""
    command = [sys.executable, str(BENCHMARK_DIR / f"{script}.py"), "--json", *extra]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"benchmarks/{script}.py failed; the other rows are kept in docs/benchmarks.json")
    return [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def render_table(results: dict[str, dict[str, object]]) -> str:
    """Markdown: the rows of every script, each with when and where it was run."""
    lines = [TABLE_HEADER]
    notes = []
    for script in SCRIPTS:
        for content in results.get(script, {}).get("rows", []):  # type: ignore[attr-defined]
            row = Row(**content)
            lines.append(row.to_markdown())
            if row.note:
                notes.append(f"* {row.what}: {row.note}.")
    where = sorted({f"{entry['machine']}, {entry['date']}" for entry in results.values()})
    return "\n".join([*lines, "", *notes, "", f"Measured on {'; '.join(where)}."])


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), metavar="NAME")
    parser.add_argument("--videos", type=Path, help="folder of real clips for the loading rows")
    parser.add_argument("--rounds", type=int, help="rounds, for the scripts that take several")
    chosen = parser.parse_args()
    store, page = DOCS_DIR / "benchmarks.json", DOCS_DIR / "benchmarks.md"
    kept: dict[str, dict[str, object]] = json.loads(store.read_text()) if store.exists() else {}
    for script in chosen.only:
        print(f"benchmarks/{script}.py …", flush=True)
        extra = ["--videos", str(chosen.videos)] if chosen.videos and script == "loading" else []
        extra += ["--rounds", str(chosen.rounds)] if chosen.rounds else []
        rows = run_script(script, extra)
        for row in rows:
            print(row.to_markdown(), flush=True)
        kept[script] = {
            "machine": describe_machine(),
            "date": date.today().isoformat(),
            "rows": [vars(row) for row in rows],
        }
        write_text(store, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        text = page.read_text(encoding="utf-8")
        before, rest = text.split(TABLE_MARKERS[0])
        after = rest.split(TABLE_MARKERS[1])[1]
        write_text(page, f"{before}{TABLE_MARKERS[0]}\n{render_table(kept)}\n{TABLE_MARKERS[1]}{after}")


if __name__ == "__main__":
    main()
