"""A reader that opens an index while another process replaces it gets one of the two, whole."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = r"""
import os, sys, time
from pathlib import Path
from nearfar.index import LexicalIndex, open_index

folder = Path(sys.argv[1])
first, second = LexicalIndex.build(["a"], ["river"]), LexicalIndex.build(["b"], ["copper lantern"])
first.save(folder)
child = os.fork()
if child == 0:
    for _ in range(60):
        second.save(folder)
        first.save(folder)
    os._exit(0)
opened = set()
while os.waitpid(child, os.WNOHANG) == (0, 0):
    opened.add(tuple(open_index(folder).keys))
    time.sleep(0.001)
assert opened == {("a",), ("b",)}, opened
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the writer")
def test_a_reader_beside_a_writer_always_gets_a_whole_index(tmp_path):
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "index")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
