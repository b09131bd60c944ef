import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from verbspace.utils.malloc import keep_freed_memory
kept = {keep} and keep_freed_memory()
for n in range(60):
    if n == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_used_again() -> None:
    faults = {}
    for keep in (True, False):
        command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
        done, count = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        assert done == keep
        faults[keep] = count
    assert faults[True] < 0.2 * faults[False]
