"""Processes that would write over each other: shares of different counts, deleted lock files."""

import pytest

from xtts_ka.core.errors import ConfigError, XttsKaError
from xtts_ka.core.shards import Shards, distributed, which_shard


@pytest.mark.parametrize("running, late", [((0, 2), (0, 3)), ((1, 2), (0, 1)), ((0, 1), (1, 4))])
def test_shares_of_another_count_wait_for_each_other(tmp_path, running, late):
    with Shards(tmp_path, *running) as first:
        first.add({"a": 1})
        with pytest.raises(XttsKaError, match=f"as share {running[0]}/{running[1]}"):
            Shards(tmp_path, *late)
        assert first.lines() == [{"a": 1}] and first.journal.with_suffix(".lock").exists()
        if running[1] > 1:  # Its siblings may join
            Shards(tmp_path, 1 - running[0], running[1]).close()
    with Shards(tmp_path, *late) as then, then.folding() as lines:
        assert lines == [{"a": 1}]


def test_who_waits_for_a_lock_that_is_tidied_away_takes_the_new_one(tmp_path):
    import threading

    first = Shards(tmp_path)
    got = []

    def join():
        with Shards(tmp_path) as second:
            second.add({"b": 2})
            got.append(second.journal.exists() and second.journal.with_suffix(".lock").exists())

    thread = threading.Thread(target=join)
    with first.lock():
        thread.start()
        thread.join(0.2)
    first.close()
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
