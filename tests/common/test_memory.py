"""Large blocks that are freed serve the next allocation."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from wsolkit.common.memory import keep_freed_memory

if sys.argv[1:]:
    keep_freed_memory()
bytearray(100 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(100 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_block_is_not_fetched_from_the_system_twice():
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(*given: str, **more: str) -> int:
        command = [sys.executable, "-c", FAULTS, *given]
        return int(subprocess.run(command, env=plain | more, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < 100 < faults() and faults("keep", MALLOC_ARENA_MAX="2") > 100, "a user's choice stands"
