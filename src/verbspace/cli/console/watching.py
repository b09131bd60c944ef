"""Watch folders until Ctrl-C or SIGTERM, with a line for each file that was embedded."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from verbspace.cli.console.terminal import print_error
from verbspace.reporting.found_clips import display_path
from verbspace.search.builder import open_updater
from verbspace.search.watcher import Watch, WatchReport
from verbspace.utils.text import format_count, format_timestamp, sanitize


def watch_until_stopped(
    encoder: str, folders: Sequence[str], index: Path, interval: float, settle: float, *, commit_interval: float,
    **settings: Any,
) -> None:  # fmt: skip
    """Run `Watch`, and print what it does. The settings are those of `open_updater`.

    Raises:
        ValueError: A setting is not valid, or one of the folders is none.
    """
    totals = {"files": 0, "windows": 0, "moved": 0}

    def on_report(report: WatchReport) -> None:
        now, speed = time.strftime("%H:%M:%S"), sum(file.duration for file in report.files) / report.seconds
        for file in report.files:
            name, length = sanitize(display_path(file.path)), format_timestamp(file.duration)
            windows = format_count(len(file.starts), "window")
            print(f"{now}  {name}: {length} in {windows}, {speed:.0f}× real time", flush=True)
        if report.moved:
            print(f"{now}  {format_count(report.moved, 'file')} moved", flush=True)
        totals["files"] += len(report.files)
        totals["windows"] += sum(len(file.starts) for file in report.files)
        totals["moved"] += report.moved

    watch = Watch(
        open_updater(encoder, index, **settings), folders, settle=settle, commit_interval=commit_interval,
        on_report=on_report, on_message=print_error,
    )  # fmt: skip
    with _stop_on_signals(watch.stop):
        print(f"watching {', '.join(map(sanitize, folders))}; Ctrl-C stops", flush=True)
        watch.run(interval)
    moved = f", {totals['moved']} moved" if totals["moved"] else ""
    files, windows = format_count(totals["files"], "file"), format_count(totals["windows"], "window")
    print(f"stopped; {files} embedded in {windows}{moved}", flush=True)


@contextmanager
def _stop_on_signals(stop: Event) -> Iterator[None]:
    """Set an event at the first Ctrl-C or SIGTERM, so that no commit is interrupted. The second one interrupts."""

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    former = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)
