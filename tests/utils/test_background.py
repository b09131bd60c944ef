from pathlib import Path

import pytest

from support.background_functions import add, end, wait
from verbspace.utils.background import BackgroundTask


def test_result_and_progress_of_the_function_arrive() -> None:
    events: list[object] = []
    with BackgroundTask(add, 2, 3, num_threads=1, on_progress=lambda *event: events.append(event)) as task:
        assert task.result() == (5, 1)
    assert events == [("add", 1, 2, {}), ("add", 2, 2, {"top1": 0.5})]
    assert task.relay()


@pytest.mark.parametrize(
    ("how", "message"),
    [("error", "^ValueError: frames: 0; give at least one$"), ("killed", "^its process ended with exit code -9$")],
)
def test_a_function_that_fails_raises_here(how: str, message: str) -> None:
    with BackgroundTask(end, how, num_threads=1) as task, pytest.raises(RuntimeError, match=message):
        task.result()


def test_an_error_in_the_block_ends_the_function(tmp_path: Path) -> None:
    def fail() -> None:
        with BackgroundTask(wait, tmp_path / "marker", num_threads=1, on_progress=lambda *_: started.append(1)) as task:
            while not started:
                task.relay()
            raise ValueError("stop")

    started: list[int] = []
    with pytest.raises(ValueError, match="stop"):
        fail()
    assert (tmp_path / "marker").read_text() == "saved"
