"""Processes that would write over each other: shards that are being made, deleted lock files."""

import pytest

from xtts_ka.core.errors import ConfigError
from xtts_ka.core.shards import ShardFolder, distributed, which_shard


def opened(root):
    folder = ShardFolder(root)
    with folder.locked():
        folder.remember()
    return folder


def test_a_shard_that_is_being_made_is_left_to_its_process(tmp_path):
    "It is free again once that process has ended."
    one, two = opened(tmp_path), opened(tmp_path)
    assert one.claim("a") and not two.claim("a") and two.claim("b")
    one.close()
    assert two.claim("a")
    two.close()


def test_who_waits_for_a_lock_that_is_tidied_away_takes_the_new_one(tmp_path):
    import threading

    first, got = opened(tmp_path), []

    def join():
        second = ShardFolder(tmp_path)
        with second.locked():
            second.remember()
            got.append(not second.changed() and second.claim("a"))
        second.close()

    thread = threading.Thread(target=join)
    with first.locked():
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        first.clear()
    thread.join()
    assert got == [True]


def test_a_run_whose_lock_file_was_deleted_is_still_the_only_one(tmp_path):
    from xtts_ka.pipeline.state import LockedError, RunLock

    with RunLock(tmp_path):
        (tmp_path / ".lock").unlink()
        with pytest.raises(LockedError), RunLock(tmp_path, patience=0):
            pass
    with RunLock(tmp_path, patience=0):
        pass


@pytest.mark.parametrize("text", ["١/٢", "0/٢", "0/" + "9" * 5000, "1/1"])
def test_other_digits_are_no_share(text):
    with pytest.raises(ConfigError, match="--shard"):
        which_shard(text)


@pytest.mark.parametrize(
    "name, value", [("WORLD_SIZE", "abc"), ("RANK", "1.5"), ("WORLD_SIZE", "٣")]
)
def test_a_rank_that_is_no_number_is_one_line(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}={value}: a whole number"):
        distributed()
