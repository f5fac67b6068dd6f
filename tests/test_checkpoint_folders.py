"""What counts as a checkpoint, beside a training that writes one at the same time."""

import errno
import os
import shutil

import pytest
import torch

from xtts_ka.core import checkpoint
from xtts_ka.core.checkpoint import CheckpointManager, save_checkpoint
from xtts_ka.core.errors import CheckpointError


def test_a_save_under_way_is_no_checkpoint(tmp_path, capsys):
    from xtts_ka.pipeline.monitor import cleanup

    root = tmp_path / "gpt/checkpoints"
    for step in (1, 2, 3):
        save_checkpoint(root, step, {"m": {"w": torch.ones(2)}}, {}, {}, keep=9)
    under_way = root / f".tmp-{os.getpid()}-0a1b2c3d-step-0000000004"
    shutil.copytree(root / "step-0000000003", under_way)
    (under_way / "manifest.json").unlink()  # Not written yet
    (root / "step-0000000009").touch()  # A file
    assert [r["step"] for r in CheckpointManager(root).list_checkpoints()] == [1, 2, 3]
    said = cleanup(tmp_path, keep=2, delete=True)
    assert "step-0000000001" in said[0] and ".tmp-" not in "".join(said)
    assert under_way.is_dir() and not (root / "step-0000000001").exists()


@pytest.mark.parametrize(
    "number, words",
    [(errno.ENOSPC, "free space on the disk"), (errno.ENOENT, "run again to go on from them")],
)
def test_only_a_full_disk_asks_for_space(tmp_path, monkeypatch, number, words):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "_write_parts", fail)
    with pytest.raises(CheckpointError) as found:
        save_checkpoint(tmp_path, 1, {}, {}, {})
    assert words in str(found.value)
    assert ("free space" in str(found.value)) == (number == errno.ENOSPC)
