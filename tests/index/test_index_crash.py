"""A process killed at any moment of saving leaves the old index or the new one, never half of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = r"""
import json, os, signal, sys
from pathlib import Path
import numpy as np
from nearfar.index import ApproximateIndex, ExactIndex, LexicalIndex, ModelIdentity, open_index

kind, folder = sys.argv[1], Path(sys.argv[2])

def build(word, count):
    keys, texts = [f"{word}{i}" for i in range(count)], [f"{word} {i}" for i in range(count)]
    if kind == "lexical":
        return LexicalIndex.build(keys, texts)
    index = {"exact": ExactIndex, "approximate": ApproximateIndex}[kind](8, ModelIdentity("m", "sha256:0"))
    rows = np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
    index.add(keys, texts, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return index

old, new = build("old", 30), build("new", 40)
new_keys, old_keys, outcomes, steps = list(new.keys), list(old.keys), [], 0
new.save(folder); old.save(folder)  # everything that is built at the first save is built
while True:
    steps += 1
    child = os.fork()
    if child == 0:
        left = steps
        def kill_at_the_step(event, args):
            global left
            if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "os.listdir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill_at_the_step)
        new.save(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    keys = list(open_index(folder).keys)
    outcomes.append("old" if keys == old_keys else "new" if keys == new_keys else "half")
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0
        break
    old.save(folder)  # what was killed does not stand in the way of the next save
    assert list(open_index(folder).keys) == old_keys
print(json.dumps(outcomes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
@pytest.mark.parametrize("kind", ["exact", "approximate", "lexical"])
def test_killed_at_any_step_of_a_save_the_old_index_or_the_new_one_is_there(kind, tmp_path):
    run = subprocess.run([sys.executable, "-c", SCRIPT, kind, str(tmp_path / "index")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    outcomes = json.loads(run.stdout)
    assert set(outcomes) == {"old", "new"}
    assert len(outcomes) > 15  # it was killed at many steps, and the last run was not killed
