"""A model in a folder that several people share: who may read and write it, two pushes at once."""

import os
import stat

import numpy as np
import pytest

from xtts_ka.core.errors import MissingError
from xtts_ka.core.files import atomic_write
from xtts_ka.pipeline import hub


@pytest.fixture
def voice(tmp_path, monkeypatch):
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    (tmp_path / "voice/deep").mkdir(parents=True)
    (tmp_path / "voice/notes.txt").write_text("one")
    (tmp_path / "voice/deep/notes.txt").write_text("one")
    np.save(tmp_path / "voice/weights.npy", np.zeros(2))
    return tmp_path / "voice"


def push(voice, text):
    (voice / "notes.txt").write_text(text)
    return hub.push(voice, f"file://{voice.parent}/shared", "mit")


def test_mode_and_group_stay(voice):
    push(voice, "one")
    shared, group = voice.parent / "shared", os.getgid()
    if os.geteuid() == 0:
        group = 54321
        for p in (shared, *shared.rglob("*")):
            os.chown(p, -1, group)
    shared.chmod(0o2775)
    (shared / "deep").chmod(0o2775)
    (shared / "notes.txt").chmod(0o664)
    (voice / "new").mkdir()
    (voice / "new/more.txt").write_text("more")
    push(voice, "two")
    seen = {
        p.relative_to(voice.parent).as_posix(): oct(stat.S_IMODE(p.stat().st_mode))
        for p in (shared, *shared.rglob("*"))
    }
    assert (shared / "notes.txt").read_text() == "two"
    for name in ("shared", "shared/deep", "shared/new"):
        assert seen[name] == "0o2775", seen
    for name in ("shared/notes.txt", "shared/new/more.txt"):
        assert seen[name] == "0o664", seen
    assert {p.stat().st_gid for p in (shared, *shared.rglob("*"))} == {group}


def test_two_pushes_at_once_are_not_both_said_to_be_done(voice, monkeypatch):
    push(voice, "one")
    write, calls = hub.write_json, []

    def write_json(*words):  # The last step before files are sent
        calls.append(words)
        if len(calls) == 1:
            push(voice, "the other's")
        return write(*words)

    monkeypatch.setattr(hub, "write_json", write_json)
    with pytest.raises(MissingError, match="somebody else changed it in the meantime"):
        push(voice, "mine")
    assert (voice.parent / "shared/notes.txt").read_text() == "the other's"


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    atomic_write(tmp_path / "a", "1")
    (tmp_path / "a").chmod(0o640)
    assert stat.S_IMODE(atomic_write(tmp_path / "a", "2").stat().st_mode) == 0o640
