"""Load on the REST interface over the loopback interface, beside the same predictions in one process.

python benchmarks/rest.py runs/demo --clips runs/demo/world/test --requests 200 --clients 8
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import uvicorn

from verbspace.app.api import make_api
from verbspace.app.controller import AppController
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.predictor import WindowConfig, resolve_concepts
from verbspace.models.loading import load_encoder


def main() -> None:
    """Start a server in a thread, send it requests from several clients, and print rates and latencies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--port", type=int, default=7862)
    args = parser.parse_args()
    encoder = load_encoder(args.encoder)
    controller = AppController(
        {"encoder": encoder}, resolve_concepts(encoder, None, None), window_config=WindowConfig(4.0)
    )
    records = read_manifest(args.clips)
    files = [records[number % len(records)].path for number in range(args.requests)]

    predictor = controller.main_predictor()
    list(predictor.predict_stream([str(files[0])]))
    began = time.perf_counter()
    list(predictor.predict_stream(map(str, files), batch_size=1))
    alone = args.requests / (time.perf_counter() - began)

    server = uvicorn.Server(uvicorn.Config(make_api(controller), port=args.port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)

    def request(path: Path) -> tuple[int, float]:
        start = time.perf_counter()
        with path.open("rb") as file:
            response = httpx.post(f"http://127.0.0.1:{args.port}/predict", files={"clip": file}, timeout=600)
        return response.status_code, time.perf_counter() - start

    began = time.perf_counter()
    with ThreadPoolExecutor(args.clients) as pool:
        results = list(pool.map(request, files))
    served = args.requests / (time.perf_counter() - began)
    server.should_exit = True
    thread.join()
    failed = sum(status != 200 for status, _ in results)
    latencies = sorted(1000 * seconds for _, seconds in results)
    print(f"in one process: {alone:.1f} clips/s; served to {args.clients} clients: {served:.1f} clips/s")
    print(f"ratio {served / alone:.2f}, {failed} of {args.requests} failed")
    print(
        f"latency {statistics.median(latencies):.0f} ms median, {latencies[int(0.99 * len(latencies)) - 1]:.0f} ms p99"
    )


if __name__ == "__main__":
    main()
