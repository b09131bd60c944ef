"""How the time of each job grows with its work: at 1, 4 and 16 times the work, with the exponent.

    python benchmarks/growth.py                     # about ten minutes on two cores
    python benchmarks/growth.py --only embedding    # jobs whose name contains a text

An exponent of 1 means that the time is proportional to the work, below 1 that a fixed cost is shared, above 1 that the
time grows faster than the work. It is that of the last step, from 4 to 16 times the work. Each time is the smallest of
three. Models and data are random; the encoder is the playground's.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import describe_machine, time_call
from loading import VIEWS, encode_clip
from random_models import random_trainer, random_views
from scale import create_index, random_queries
from torch import Tensor
from transformers import CLIPConfig

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import parse_settings
from verbspace.data.datasets import ViewDataset
from verbspace.data.sampling import Window
from verbspace.data.sources.manifest import read_manifest
from verbspace.data.sources.record import Record
from verbspace.evaluation.knn import knn_scores
from verbspace.evaluation.linear_probe import linear_probe
from verbspace.evaluation.retrieval_metrics import target_ranks
from verbspace.evaluation.topk import exact_topk
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.inference.embedding import embed_clips, embed_videos, embed_windows
from verbspace.inference.spans import find_spans
from verbspace.inference.timeline import extract_segments, merge_windows
from verbspace.models import hub
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.nearest import nearest_windows
from verbspace.utils.malloc import disable_malloc_trim

FACTORS = (1, 4, 16)
ROUNDS = 3
Job = Callable[[int], Callable[[], object]]  # from the amount of work to the function that is timed


class Jobs:
    """The jobs, each with its smallest amount of work; `folder` is for their files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.encoder = VideoEncoder.from_pretrained("playground")
        self.generator = torch.Generator().manual_seed(0)
        self.clip = encode_clip(folder / "clip.mp4", 2)
        self.table: dict[str, tuple[Job, int]] = {
            "embedding: videos of 2 s": (self.embed_files, 8),
            "embedding: frames per clip": (self.embed_frames, 8),
            "windows of a long video: seconds": (self.embed_long_video, 10),
            "views for training: videos of 2 s": (self.load_views, 2),
            "views for training: seconds of a video": (self.load_long_views, 4),
            "training step: clips": (self.train, 2),
            "encoding texts: texts": (self.encode_texts, 50),
            "zero-shot: clips (400 actions)": (self.score_clips, 2_000),
            "zero-shot: actions (2,000 clips)": (self.score_actions, 50),
            "k-NN: training clips (1,000 test clips)": (self.classify, 6_000),
            "linear probe: clips (20 classes)": (self.probe_clips, 500),
            "linear probe: classes (4,000 clips)": (self.probe_classes, 10),
            "retrieval: captions and videos, per pair": (self.rank, 250**2),
            "exact search in memory: vectors": (self.search_memory, 50_000),
            "index: rows written": (self.write_index, 6_000),
            "index: exact search on disk, rows": (self.search_index, 12_000),
            "timeline: windows (100 actions)": (self.find_segments, 250),
            "spans: windows (20 actions)": (self.find_spans, 250),
            "reading a list: videos": (self.read_list, 5_000),
        }

    def randn(self, *shape: int) -> Tensor:
        """Return normalized random vectors."""
        return F.normalize(torch.randn(*shape, generator=self.generator), dim=-1)

    def copies(self, count: int) -> list[Record]:
        """Return records of copies of the clip."""
        paths = [self.folder / f"copy{n}.mp4" for n in range(count)]
        for path in paths:
            if not path.exists():
                shutil.copy(self.clip, path)
        return [Record(path) for path in paths]

    def embed_files(self, count: int) -> Callable[[], object]:
        return partial(embed_videos, self.encoder, self.copies(count))

    def embed_frames(self, count: int) -> Callable[[], object]:
        video = torch.randint(0, 256, (1, count, 3, 64, 64), dtype=torch.uint8, generator=self.generator)
        return partial(embed_clips, self.encoder, video, torch.arange(count)[None] / 8)

    def embed_long_video(self, seconds: int) -> Callable[[], object]:
        path = encode_clip(self.folder / f"long{seconds}.mp4", seconds)
        return partial(embed_windows, self.encoder, path, length=2.0, stride=1.0)

    def load_views(self, count: int) -> Callable[[], object]:
        dataset = ViewDataset(self.copies(count), VIEWS, seed=0, max_short_side=256)
        return lambda: [dataset[n] for n in range(count)]

    def load_long_views(self, seconds: int) -> Callable[[], object]:
        path = encode_clip(self.folder / f"views{seconds}.mp4", seconds)
        dataset = ViewDataset([Record(path)], VIEWS, seed=0, max_short_side=256)
        return lambda: dataset[0]

    def train(self, clips: int) -> Callable[[], object]:
        config = CLIPConfig.from_pretrained(hub.resolve_checkpoint("playground"), dtype="float32")
        settings = parse_settings({"views": {"local_views": 2, "global_size": 64, "local_size": 32}})
        trainer = random_trainer(config, settings)
        return partial(trainer.training_step, random_views(settings, clips), is_logged=False)

    def encode_texts(self, count: int) -> Callable[[], object]:
        return partial(self.encoder.encode_text, [f"a video of a person doing action {n}" for n in range(count)])

    def space(self, actions: int) -> ConceptSpace:
        """Return a space of random vectors."""
        concepts = ConceptSet.from_actions([f"action {n}" for n in range(actions)])
        return ConceptSpace.build(concepts, lambda texts: self.randn(len(texts), 512))

    def score_clips(self, count: int) -> Callable[[], object]:
        return partial(zero_shot_scores, self.randn(count, 512), self.space(400))

    def score_actions(self, count: int) -> Callable[[], object]:
        return partial(zero_shot_scores, self.randn(2_000, 512), self.space(count))

    def classify(self, count: int) -> Callable[[], object]:
        labels = torch.arange(count) % 400
        return partial(knn_scores, self.randn(count, 512), labels, self.randn(1_000, 512), 400)

    def probe(self, count: int, classes: int) -> Callable[[], object]:
        """Return a probe of clips around a center for each class."""
        labels = torch.arange(count) % classes
        features = F.normalize(self.randn(classes, 128)[labels] + 2 * self.randn(count, 128), dim=1)
        return partial(linear_probe, features, labels, classes, (1.0, 10.0))

    def probe_clips(self, count: int) -> Callable[[], object]:
        return self.probe(count, 20)

    def probe_classes(self, count: int) -> Callable[[], object]:
        return self.probe(4_000, count)

    def rank(self, pairs: int) -> Callable[[], object]:
        count = math.isqrt(pairs)
        scores = self.randn(count, 128) @ self.randn(count, 128).T
        return partial(target_ranks, scores, torch.arange(count))

    def search_memory(self, count: int) -> Callable[[], object]:
        return partial(exact_topk, self.randn(count, 512), self.randn(10, 512), 10)

    def write_index(self, rows: int) -> Callable[[], object]:
        def write() -> None:
            shutil.rmtree(self.folder / "written", ignore_errors=True)
            create_index(self.folder / "written", rows)

        return write

    def search_index(self, rows: int) -> Callable[[], object]:
        index, _ = create_index(self.folder / f"index{rows}", rows)
        index.optimize()
        queries = random_queries().numpy()[:10]
        return lambda: [nearest_windows(index, query, exact=True) for query in queries]

    def windows(self, count: int, actions: int) -> tuple[list[Window], Tensor]:
        """Return overlapping windows of 2 s, and their probabilities (N, K)."""
        windows = [Window(float(n), n + 2.0) for n in range(count)]
        return windows, torch.randn(count, actions, generator=self.generator).softmax(1)

    def find_segments(self, count: int) -> Callable[[], object]:
        windows, probabilities = self.windows(count, 100)
        names = [f"action {n}" for n in range(100)]
        return lambda: extract_segments(merge_windows(windows, probabilities), names)

    def find_spans(self, count: int) -> Callable[[], object]:
        windows, probabilities = self.windows(count, 20)
        grid = merge_windows(windows, probabilities)
        return partial(find_spans, grid, [f"action {n}" for n in range(20)])

    def read_list(self, count: int) -> Callable[[], object]:
        folder = self.folder / f"list{count}"
        folder.mkdir()
        names = [f"{n:06}.mp4" for n in range(count)]
        for name in names:
            (folder / name).touch()
        (folder / "list.csv").write_text(
            "path,label\n" + "".join(f"{name},label {n % 400}\n" for n, name in enumerate(names))
        )
        return partial(read_manifest, folder / "list.csv")


def main() -> None:
    """Print a table, or JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only jobs whose name contains this text")
    parser.add_argument("--json", action="store_true", help="print one JSON object per job")
    args = parser.parse_args()
    disable_malloc_trim()  # as the command line does
    if not args.json:
        print(f"{describe_machine()}\n\n| job: work | smallest | 1× | 4× | 16× | exponent |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="verbspace-growth-") as folder:
        jobs = Jobs(Path(folder))
        for name, (job, work) in jobs.table.items():
            if args.only not in name:
                continue
            seconds = []
            for factor in FACTORS:
                function = job(factor * work)
                function()
                seconds.append(min(time_call(function) for _ in range(ROUNDS)))
            exponent = math.log(seconds[2] / seconds[1]) / math.log(FACTORS[2] / FACTORS[1])
            if args.json:
                print(json.dumps({"job": name, "work": work, "seconds": seconds, "exponent": exponent}), flush=True)
            else:
                times = " | ".join(f"{value:.3g} s" for value in seconds)
                print(f"| {name} | {work:,} | {times} | {exponent:.2f} |", flush=True)


if __name__ == "__main__":
    main()
