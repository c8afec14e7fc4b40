"""That the memory of large tensors is kept for the next ones."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from polymodal.allocator import keep_freed_memory

keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):  # some are mapped anew until there is a place for one
        torch.ones(16 * 2**20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted, and glibc is looked for, on Linux alone")
def test_the_memory_of_a_freed_tensor_is_used_again():
    """Else a training on the CPU spends up to half of its time on page faults."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())
    assert second < first / 100
