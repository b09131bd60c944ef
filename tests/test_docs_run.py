"""The commands and programs of the documentation run in order, as they stand, on the playground."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.benchmark_files import ucf101
from support.doc_blocks import PAGES, ROOT, Block, read_blocks
from support.language_models import ScriptedServer, completion_response, reply_about
from support.playground_files import TINY_SETTINGS, TINY_WORLD_SETTINGS, tiny_world
from verbspace.playground.demo import run_demo

pytestmark = pytest.mark.slow

NOT_RUN = {  # beginnings of commands and programs, and why they are not run
    "make ": "installs, then runs the demo or the tests",
    "pip ": "installs",
    "docker ": "needs Docker",
    "curl ": "needs a server; tests/app/test_api.py has its requests",
    "verbspace app ": "runs until it is stopped; tests/app has its tests",
    "verbspace serve ": "runs until it is stopped",
    "verbspace push ": "needs an account of the hub; tests/models/test_hub_upload.py has its tests",
    "verbspace demo": "takes minutes; tests/playground/test_demo.py has its tests",
    "verbspace embed camera1/": "runs until it is stopped; tests/search/test_watcher.py has its tests",
    "verbspace search camera1/": "needs the indices of three cameras; tests/search/test_searcher.py has its tests",
    'verbspace predict my_videos/ "more/**/*.mp4" s3://': "needs an account of S3",
    "import mteb": "needs a network; tests/integrations/test_mteb_tasks.py has its tests",
    "torchrun ": "needs GPUs; tests/training/test_distributed.py has its tests",
    "accelerate ": "the same",
    "srun ": "needs Slurm",
    "pytest ": "needs a network",
    "python studies/": "takes an hour or more",
    "python benchmarks/": "takes minutes; tests/test_benchmark_scripts.py has its tests",
    "python -m verbspace.playground.pretrain": "takes half an hour; tests/playground/test_pretrain.py has its tests",
}
PAGES_RUN = ("README.md", "tutorial.md", "using.md", "search.md", "shipping.md", "index.md")
PROGRAM = f'verbspace() {{ {sys.executable} -m verbspace "$@"; }}; '
SHORT_PROGRAM = """
import functools, verbspace
settings = {"views": {"local_views": 0}, "training": {"steps": 2, "batch_size": 4}}
verbspace.adapt = functools.partial(verbspace.adapt, settings=verbspace.AdaptSettings.model_validate(settings))
"""
SHORT_RUN = " --set training.steps=2 --set training.batch_size=4 --set views.local_views=0"


def adjusted(text: str) -> str:
    """Return a command or program with the small CLIP and a short run instead of a checkpoint of the hub."""
    text = text.replace("openai/clip-vit-base-patch16", "playground").replace("training.steps=200", "training.steps=2")
    if text.startswith("verbspace adapt") and "training.steps" not in text:
        text += SHORT_RUN
    if "--others" in text:
        text += " --reference halves"  # after two steps, the encoder hardly differs from the frozen one
    return "\n".join(line for line in text.splitlines() if "push_to_hub" not in line)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny demo."""
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    shutil.copytree(tiny_world(tmp_path_factory), out / "world")
    run_demo(out, settings=TINY_SETTINGS, world_settings=TINY_WORLD_SETTINGS, supervised_upper_bound=False)
    return out


@pytest.fixture
def workspace(demo: Path, tmp_path: Path) -> Path:
    """A folder with the files that a reader has: videos, labeled videos, actions, and the demo's run."""
    shutil.copytree(demo, tmp_path / "runs" / "demo")
    world = demo / "world"
    more = enumerate(sorted((world / "probe").rglob("*.mp4")), 100)  # a calibration needs 20 videos
    for number, clip in more:
        shutil.copy(clip, tmp_path / "runs" / "demo" / "world" / "train" / f"{number:05}.mp4")
    kick = tmp_path / "runs" / "demo" / "world" / "test" / "kicking a ball"
    shutil.copy(next(kick.iterdir()), kick / "00229.mp4")
    for name in ("my_videos", "archive", "videos", "other_videos", "more"):
        shutil.copytree(tmp_path / "runs" / "demo" / "world" / "train", tmp_path / name)
    for name, split in (("labeled", "test"), ("a_few_labeled", "probe"), ("test", "test"), ("labeled_train", "probe")):
        shutil.copytree(world / split, tmp_path / name)
    clips = sorted((world / "test").rglob("*.mp4"))
    for name, source in zip(("clip.mp4", "long.mp4", "a.mp4", "b.mp4"), clips, strict=False):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "actions.txt").write_text("\n".join(sorted(folder.name for folder in (world / "test").iterdir())))
    ucf101(tmp_path / "ucf101")
    return tmp_path


@pytest.fixture(scope="module")
def language_model() -> Iterator[str]:
    """The address of a language model that describes every action."""

    def respond(request: dict[str, object], number: int) -> tuple[int, bytes, dict[str, str]]:
        messages = request["messages"]
        assert isinstance(messages, list)
        return completion_response(reply_about(json.loads(messages[1]["content"].removeprefix("The action: "))))

    with ScriptedServer(respond) as server:
        yield server.url


def run(block: Block, workspace: Path, environment: dict[str, str]) -> list[str]:
    """Run a block in the workspace, and return a description of each failure."""
    if block.language == "python":
        if block.text.startswith(tuple(NOT_RUN)):
            return []
        programs = [([sys.executable, "-c", SHORT_PROGRAM + adjusted(block.text)], "program")]
    else:
        commands = [c for c in block.commands() if not c.startswith(tuple(NOT_RUN))]
        programs = [(["bash", "-o", "pipefail", "-c", PROGRAM + adjusted(command)], command) for command in commands]
    failures = []
    for arguments, name in programs:
        process = subprocess.run(
            arguments, cwd=workspace, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        if process.returncode:
            where = f"{block.page.relative_to(ROOT)}:{block.line}"
            failures.append(f"{where}: {name}\n  exit code {process.returncode}\n{process.stderr[-1500:]}")
    return failures


@pytest.mark.parametrize("name", PAGES_RUN)
def test_a_page_runs_in_order(name: str, workspace: Path, language_model: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "OPENAI_BASE_URL": language_model, "OPENAI_API_KEY": "x"}
    (page,) = (page for page in PAGES if page.name == name and (name != "README.md" or page.parent == ROOT))
    failures: list[str] = []
    for block in read_blocks(page):
        if block.language in ("bash", "python"):
            failures += run(block, workspace, environment)
    assert not failures, "\n\n".join(failures)
