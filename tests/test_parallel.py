"""Stages at the same time: they really overlap, keep their order where one needs the other, fail
and stop together, and leave what one after the other leaves."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_runner import (
    COMMON,
    START,
    Toys,
    shelf,  # noqa: F401, a fixture
    write_notebook,
)

CONFIGS = """
from xtts_ka.core.config import config
from xtts_ka.pipeline.stages import Stage

@config
class Toy:
    mode: str = "good" # What the notebook is to do

def stage(name, **kw):
    return Stage(name, f"nbs/runs/{name}.ipynb", "toy_stages.Toy", outputs=(name,), doc=name, **kw)
TOYS = (
    stage("root"), stage("left", needs=("root",)), stage("right", needs=("root",), cost=5),
    stage("late", needs=("left",), cost=2), stage("end", needs=("late",), reads=("right",)),
)
"""
WORK = (
    "import time\nbegin = time.time()\nif mode == 'bad': raise ValueError('no luck')\nif mode =="
    " 'slow':\n    try:\n        (here/'begun').touch(); time.sleep(60)\n    except"
    " KeyboardInterrupt: (here/'saved').touch(); raise\nif mode == 'wait':"
    " time.sleep(4)\n(here/'out.json').write_text(json.dumps([begin, time.time()]));"
    " (here/'metrics.json').write_text('{}')"
)


class Team(Toys):
    def __init__(self, root, shelf):
        super().__init__(root, shelf)
        (root / "toy_stages.py").write_text(CONFIGS)
        (root / "c.yaml").write_text("run: t\nthreads: 1\njobs: 2\n")
        for name in ("root", "left", "right", "late", "end"):
            write_notebook(
                root, name, ("mode = 'good'\n" + COMMON, START.replace("STAGE", f"'{name}'"), WORK)
            )


@pytest.fixture
def team(tmp_path, shelf, monkeypatch):  # noqa: F811
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_stages", raising=False)
    from xtts_ka.pipeline import runner

    monkeypatch.setattr(runner, "make_report", lambda d: d / "report" / "index.html")
    yield Team(tmp_path, shelf)
    sys.modules.pop("toy_stages", None)


def test_two_at_a_time_in_their_order(team, capsys):
    assert team.run("left.mode=wait", "right.mode=wait") == 0
    times = {n: team.out(n) for n in ("root", "left", "right", "late", "end")}
    assert min(times["left"][1], times["right"][1]) > max(
        times["left"][0], times["right"][0]
    )  # They overlapped
    for first, then in (
        ("root", "left"),
        ("root", "right"),
        ("left", "late"),
        ("late", "end"),
        ("right", "end"),
    ):
        assert times[first][1] <= times[then][0]
    said = capsys.readouterr().out
    assert (
        "left: running left" in said
        and set(team.status().values()) == {"done"}
        and all(s["cpu_seconds"] > 0 for s in team.state().values())
    )
    team.ran()
    assert team.run("left.mode=wait", "right.mode=wait") == 0 and team.ran() == []
    assert (
        team.run("left.mode=wait", "right.mode=wait", "jobs=1") == 0 and team.ran() == []
    )  # How many at a time does not count as a change
    assert team.run("left.mode=wait") == 0 and sorted(team.ran()) == ["end", "right"]


def test_a_failure_lets_the_others_end(team, capsys):
    assert team.run("left.mode=bad", "right.mode=wait") == 1
    assert team.status() == {
        "root": "done",
        "left": "failed",
        "right": "done",
        "late": "blocked",
        "end": "blocked",
    }
    assert "ValueError: no luck" in capsys.readouterr().out
    team.ran()
    assert team.run("right.mode=wait") == 0 and sorted(team.ran()) == ["end", "late", "left"]


def test_an_interrupt_reaches_all(team):
    p = team.start("left.mode=slow", "right.mode=slow")
    for name in ("left", "right"):
        team.until(f"{name}/begun")
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=40)
    assert p.returncode == 130 and "to go on: xtts-ka run" in out, out + err
    assert (
        all((team.dir / n / "saved").exists() for n in ("left", "right"))
        and team.status()["left"] == team.status()["right"] == "failed"
    )
    assert all("interrupted (SIGINT)" in team.state()[n]["error"] for n in ("left", "right"))


def test_kill_9_ends_the_drivers_too(team):
    p = team.start("left.mode=slow", "right.mode=slow")
    for name in ("left", "right"):
        team.until(f"{name}/begun")
    p.kill()
    p.communicate()
    assert (
        team.run() == 0
    )  # Waits for the lock, which the kernels of the killed run hold until they notice
    assert set(team.status().values()) == {"done"}
