import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from verbspace.utils.malloc import disable_malloc_trim
is_disabled = {disable} and disable_malloc_trim()
for n in range(24):
    if n == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
print(int(is_disabled), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets an option of glibc")
def test_freed_memory_is_reused() -> None:
    page_faults = {}
    for disable in (True, False):
        command = [sys.executable, "-c", SCRIPT.format(disable=disable)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        is_disabled, page_faults[disable] = map(int, output.split())
        assert is_disabled == disable
    assert page_faults[True] < 0.2 * page_faults[False]
