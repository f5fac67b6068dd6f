"""A smoke run killed with -9 at random moments, and resumed each time, ends in the same files as
one that nothing disturbed.

Moments are drawn evenly over the time the run takes. By default two, in a run that takes over what
lies before the training of XTTS; `XTTS_KA_KILLS=10` kills more often
and from the first stage on, for about a quarter of a minute more each; `XTTS_KA_KILL_SEED` draws
other moments."""

import hashlib
import json
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import house
import psutil
import pytest
from smoke import Home, files

KILLS, SEED, WHOLE = (
    int(os.environ.get("XTTS_KA_KILLS", 2)),
    int(os.environ.get("XTTS_KA_KILL_SEED", 109)),
    "XTTS_KA_KILLS" in os.environ,
)
TIMES = (
    "metrics.jsonl",
    "metrics.json",
    "results.json",
    "waves.json",
)  # hold seconds, or when the recordings were written, which are never the same
CLOCKED = (
    "seconds",
    "cpu second",
    "real_time_factor",
    "of these, the decoder",
    "peak memory",
    "made_of",
)  # in names of figures that no two runs share
FOLDERS = (
    "corpus",
    "segments",
    "speaker_encoder",
    "embeddings",
    "phonemes",
    "language",
    "xtts_init",
    "full_pretrain",
    "xtts",
    "vocoder",
    "sovits2",
    "evaluate",
)


# ---- when and how to kill


class Clock:
    "How far a run has come, in seconds of the undisturbed one."

    def __init__(self, whole):
        self.lengths = {name: s["seconds"] for name, s in whole.stages().items()}
        self.total, self.folder = whole.first.seconds, whole.dir

    def sooner(self, moment, most=10.0):
        """A moment of the same stage, in its first `most` seconds: where a stage is killed often,
        the next attempt goes on from a checkpoint, and so later parts have their turn."""
        begin = 0.0
        for length in self.lengths.values():
            if moment < begin + length:
                return begin + (moment - begin) * min(1.0, most / length)
            begin += length
        return moment

    def started(self, home):
        "Call at the start of a call: what is done by then does not count as seen."
        self.home, self.seen, self.since = home, None, time.monotonic()

    def now(self):
        states = {n: s["status"] for n, s in self.home.stages().items()}
        done = sum(t for n, t in self.lengths.items() if states.get(n) == "done")
        at = next((n for n in self.lengths if states.get(n) != "done"), "report")
        if at != self.seen:
            self.seen, self.since = at, time.monotonic()
        return at, done + min(time.monotonic() - self.since, self.lengths.get(at, 60))


def kill(process, alone: bool):
    """Kill the runner, and with it (not `alone`) everything it started; kernels have a process
    group of their own. What it had said."""
    runner = psutil.Process(process.pid)
    runner.suspend()  # so that it starts nothing while we look
    family = [] if alone else runner.children(recursive=True)
    for p in (runner, *family):
        try:
            p.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass  # it had just ended
    psutil.wait_procs(family, 10)
    return process.communicate()[0]


def killer(process, alone: bool):
    "A way to end a run: what was killed."
    kill(process, alone)
    return f"kill -9 of {'the runner alone' if alone else 'runner and kernel'}"


def until(clock, process, moment, draw):
    "Wait for the moment; the stage then running, or None when the run was over before."
    was = clock.now()[0]
    while process.poll() is None:
        at, now = clock.now()
        if at != was and now >= moment:
            moment = now + draw.uniform(
                0, 2
            )  # the stage went on from a checkpoint and was quicker: a little into the next
        if now >= moment:
            return at
        was = at
        time.sleep(0.01)
    return None


def disturbed(home, clock, draw, plan):
    """Disturb a run at each `(moment, way)` of a sorted plan, or at fewer when it is faster than
    the clock and over too soon: [(moment, stage, what was done)].
    A way is called with the runner's process, ends it, and says what it did."""
    table = []
    for moment, way in plan:
        process = home.start(*home.command())
        clock.started(home)
        at = until(clock, process, moment, draw)
        if at is None:
            out, err = process.communicate()
            assert process.returncode == 0, out + err
            break
        table.append((moment, at, way(process)))
    return table


def kills(clock, draw, n, begin=0.0):
    "A plan of `n` random moments; every third time the kernel is left to find out by itself."
    return [
        (moment, partial(killer, alone=i % 3 == 0))
        for i, moment in enumerate(sorted(draw.uniform(begin, clock.total) for _ in range(n)), 1)
    ]


def begun(home, whole, first):
    """Take over from a whole run what lies before a stage, as if it had just ended there; the names
    of what was taken."""
    from xtts_ka.pipeline.stages import STAGES

    at = [s.name for s in STAGES].index(first)
    shutil.copytree(whole.dir, home.dir)
    for output in ["report", "spoken.tsv", *(o for s in STAGES[at:] for o in s.outputs)]:
        path = home.dir / output
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    path = home.dir / "pretrain_progress.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["stages"] = {s.name: record["stages"][s.name] for s in STAGES[:at]}
    path.write_text(json.dumps(record), encoding="utf-8")
    return list(record["stages"])


def told(table):
    "Print what was done to a run."
    for moment, at, what in table:
        print(f"  {moment:6.1f} s, {at:16} {what}")


# ---- what must be the same


def sums(folder, names):
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}


def without_times(path):
    "Lines or values of a metrics file without what the clock decides."
    rows = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if path.suffix == ".jsonl"
        else [json.loads(path.read_text(encoding="utf-8"))]
    )
    return [
        {k: v for k, v in row.items() if not any(word in k.lower() for word in CLOCKED)}
        for row in rows
    ]


def assert_same(home, whole, folders=FOLDERS, more=("spoken.tsv", "rejects.csv")):
    names = {f: files(whole.dir / f) for f in folders}
    for f in folders:
        assert files(home.dir / f) == names[f], f
    every = [f"{f}/{n}" for f in folders for n in names[f]] + list(more)
    fixed = [n for n in every if Path(n).name not in TIMES]
    mine, other = sums(home.dir, fixed), sums(whole.dir, fixed)
    assert [n for n in fixed if mine[n] != other[n]] == []
    for n in set(every) - set(fixed):
        assert without_times(home.dir / n) == without_times(whole.dir / n), n
    return fixed


def important(names):
    "Are the files that matter among those compared? Otherwise equality would mean little."
    for training in (
        "language/transformer",
        "xtts_init/dvae",
        "full_pretrain/gpt",
        "full_pretrain/decoder",
        "vocoder",
        "sovits2/tokenizer",
        "sovits2/ar",
        "sovits2/decoder",
    ):
        for part in ("model.safetensors", "optimizer.pt"):
            assert [
                n
                for n in names
                if n.startswith(f"{training}/checkpoints/step-") and n.endswith(part)
            ], (training, part)
    for shelf in (
        "xtts_init/mels",
        "xtts_init/references",
        "xtts_init/codes",
        "full_pretrain/latents",
    ):
        assert f"{shelf}/frames.npy" in names
    for n in (
        "model.pth",
        "speakers_xtts.pth",
        "dvae.pth",
        "mel_stats.pth",
        "vocab.json",
        "config.json",
    ):
        assert f"xtts/{n}" in names
    assert len([n for n in names if n.startswith("evaluate/wavs/")]) >= 20


# ---- the tests


def resumed(home):
    "The call that ends a disturbed run well."
    last = home.run()
    assert last.returncode == 0, last.stdout + last.stderr
    assert {s["status"] for s in home.stages().values()} == {"done"}
    return last


def ended_the_same(home, whole, times):
    "All that the run left is what the undisturbed one left."
    names, states = assert_same(home, whole), home.stages()
    important(names)
    assert not list(home.dir.rglob(".tmp-*")) and not (home.dir / ".old").exists(), (
        "a kill left something behind"
    )
    assert house.walk_outputs(home.dir) == []
    assert (home.dir / "report/index.html").stat().st_mtime_ns >= (
        home.dir / "pretrain_progress.json"
    ).stat().st_mtime_ns
    said = (
        f"stopped {times} times, {sum(s['attempt'] for s in states.values())} attempts of"
        f" {len(states)} stages: {len(names)} files the same to the bit"
    )
    print(f"  {said}")
    return said


@pytest.mark.timeout(600 + 120 * KILLS)
def test_killed_and_resumed_is_the_same_to_the_bit(smoke, tmp_path_factory, record_property):
    clock, draw, killed = Clock(smoke), random.Random(SEED), 0
    print(f"\nundisturbed: {clock.total:.0f} s")
    while killed < KILLS:
        home = Home(
            tmp_path_factory.mktemp("killed"), smoke.root
        )  # the same sources, even when they were edited since
        taken = [] if WHOLE else begun(home, smoke, "full_pretrain")
        table = disturbed(
            home,
            clock,
            draw,
            kills(clock, draw, KILLS - killed, sum(clock.lengths[n] for n in taken)),
        )
        told(table)
        resumed(home)
        assert {n: home.stages()[n]["started"] for n in taken} == {
            n: smoke.stages()[n]["started"] for n in taken
        }
        ended_the_same(home, smoke, len(table))
        killed += len(table)
        shutil.rmtree(home.root)
        assert table or killed, "not a single kill came before the end"
    record_property("kills", killed)


def test_one_changed_byte_would_be_found(smoke, tmp_path):
    home = SimpleNamespace(dir=tmp_path / "copy")
    shutil.copytree(smoke.dir, home.dir, copy_function=os.link)
    assert_same(home, smoke)
    changed = max((home.dir / "full_pretrain/decoder/checkpoints").glob("step-*")) / "optimizer.pt"
    raw = bytearray(changed.read_bytes())
    raw[len(raw) // 2] ^= 1
    changed.unlink()
    changed.write_bytes(raw)
    with pytest.raises(AssertionError, match="optimizer.pt"):
        assert_same(home, smoke)
    (home.dir / "evaluate/left.wav").touch()
    with pytest.raises(AssertionError, match="left.wav"):
        assert_same(home, smoke)
