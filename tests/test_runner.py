"""A run of toy stages: what is skipped, what runs again, how failures, kills and interrupts end.
Kernels are real, the work in them is not."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIGS = """
from xtts_ka.core.config import config
from xtts_ka.pipeline.stages import Stage

@config
class First:
    n: int = 3              # A number
    path: str|None = None   # A file from outside
    language: str = "ka"    # Language code
    mode: str = "good"      # What the notebook is to do

@config
class Second:
    scale: float = 2.0      # A factor
    deep: dict = {}         # Nested values

@config
class Third:
    words: list = ["გამარჯობა"] # What to say

TOYS = (Stage("first", "nbs/runs/10_first.ipynb", "toy_stages.First",
               outputs=("first",), inputs=("path",), doc="counts"),
        Stage("second", "nbs/runs/20_second.ipynb", "toy_stages.Second",
               needs=("first",), outputs=("second",), doc="multiplies"),
        Stage("third", "nbs/runs/30_third.ipynb", "toy_stages.Third",
               needs=("second",), outputs=("third", "spoken.tsv"), doc="speaks"))
"""
COMMON = "run_dir = 'outputs/smoke'\nseed = 1\nthreads = 2\n"
START = (
    "from pathlib import Path\nimport json, os, signal, time\nrun = Path(run_dir)\nhere ="
    " run/STAGE\nhere.mkdir(exist_ok=True)\nwith open('ran.log', 'a') as f: print(STAGE,"
    " file=f)\nprint('running', STAGE)"
)
NOTEBOOKS = {
    "10_first": (
        "n = 1\npath = None\nmode = 'good'\n" + COMMON,
        START.replace("STAGE", "'first'"),
        (
            "if mode == 'bad': raise ValueError('no luck\\nat all')\nif mode == 'die':"
            " os.kill(os.getpid(), signal.SIGKILL)\nif mode == 'silent': os._exit(0)\nif mode =="
            " 'slow' and not (here/'saved').exists():\n    try:\n        for i in range(600):"
            " print('step', i, flush=True); (here/'begun').touch(); time.sleep(.1)\n    except"
            " KeyboardInterrupt: (here/'saved').write_text('x'); raise"
        ),
        (
            "if mode == 'slow':"
            " (here/'holds').write_text(str(any(os.path.realpath(f'/proc/self/fd/{f}') =="
            " str((run/'.lock').resolve()) for f in os.listdir('/proc/self/fd'))))"
        ),
        (
            "(here/'out.json').write_text(json.dumps(n))\n"
            "(here/'metrics.json').write_text(json.dumps({'n': n}))\n"
            "(here/'rejects.csv').write_text("
            "'stage|file|line|item|reason\\nfirst|m.csv|2|a.wav|empty\\n')"
        ),
    ),
    "20_second": (
        "scale = 1.0\ndeep = dict(a=1)\n" + COMMON,
        START.replace("STAGE", "'second'"),
        "first = json.loads((run/'first/out.json').read_text())\n"
        "(here/'out.json').write_text(json.dumps(first * scale))",
    ),
    "30_third": (
        "words = []\nlanguage = 'ka'\n" + COMMON,
        START.replace("STAGE", "'third'"),
        (
            "(run/'spoken.tsv').write_text(''.join(f'a.wav\\t{w}\\tx\\ty\\n' for w in words));"
            " (here/'language').write_text(language)"
        ),
    ),
}


def write_notebook(root, name, sources):
    "A notebook whose first code cell is tagged `parameters`."
    code = [
        dict(
            cell_type="code",
            id=f"c{i}",
            metadata={"tags": ["parameters"]} if not i else {},
            source=s,
            outputs=[],
            execution_count=None,
        )
        for i, s in enumerate(sources)
    ]
    prose = dict(cell_type="markdown", id="prose", metadata={}, source=f"# {name}\n\n> A toy.")
    meta = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    path = root / "nbs/runs" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"cells": [prose, *code], "metadata": meta, "nbformat": 4, "nbformat_minor": 5})
    )
    return path


class Toys:
    "A repository of toy stages in a folder of its own."

    def __init__(self, root, shelf):
        self.root, self.dir, self.shelf = root, root / "outputs/t", shelf
        (root / "toy_stages.py").write_text(CONFIGS)
        (root / "c.yaml").write_text("run: t\nthreads: 1\nfirst:\n  n: 3\n")
        (root / "drive.py").write_text(
            "import sys\nfrom toy_stages import TOYS\nfrom xtts_ka.pipeline import"
            " runner\nrunner.make_report = lambda d: d/'report'/'index.html'\ncode ="
            " runner.run('c.yaml', sys.argv[1:], stages=TOYS)\nprint('papermill' in sys.modules,"
            " file=sys.stderr)\nsys.exit(code)"
        )
        for name, sources in NOTEBOOKS.items():
            write_notebook(root, name, sources)

    def run(self, *overrides, **kw):
        import toy_stages

        from xtts_ka.pipeline import runner

        return runner.run(self.root / "c.yaml", overrides, stages=toy_stages.TOYS, **kw)

    def finish(self):
        "Have a finished run, made once for all tests that only start from there."
        if (self.shelf / "t").exists():
            shutil.copytree(self.shelf / "t", self.dir)
        else:
            assert self.run() == 0 and self.ran() == ALL
            shutil.copytree(self.dir, self.shelf / "t")

    def ran(self):
        "Stages that ran since the last call."
        log = self.root / "ran.log"
        found = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def state(self):
        return json.loads((self.dir / "pretrain_progress.json").read_text())["stages"]

    def status(self):
        return {n: s["status"] for n, s in self.state().items()}

    def out(self, stage):
        return json.loads((self.dir / stage / "out.json").read_text())

    def start(self, *overrides):
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(self.root), os.environ.get("PYTHONPATH")))
            )
        }
        return subprocess.Popen(
            [sys.executable, "drive.py", *overrides],
            cwd=self.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, name, seconds=40):
        end = time.monotonic() + seconds
        while not (self.dir / name).exists():
            assert time.monotonic() < end, f"{name} did not appear in {seconds} s"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture
def toys(tmp_path, shelf, monkeypatch):
    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_stages", raising=False)
    from xtts_ka.pipeline import runner

    monkeypatch.setattr(runner, "make_report", lambda d: d / "report" / "index.html")
    yield Toys(tmp_path, shelf)
    sys.modules.pop("toy_stages", None)


ALL = ["first", "second", "third"]


def test_runs_skips_and_reruns_only_what_changed(toys, capsys):
    assert toys.run() == 0 and toys.ran() == ALL
    assert toys.out("second") == 6.0 and (toys.dir / "third/language").read_text() == "ka"
    said = capsys.readouterr().out
    assert (
        "running second" in said
        and "1 rejected items: outputs/t/rejects.csv" in said
        and "1 spoken sentences: outputs/t/spoken.tsv" in said
    )
    state = toys.state()
    assert (
        state["first"]["metrics"] == {"n": 3}
        and state["first"]["cpu_seconds"] > 0
        and set(state["first"]["fingerprint_parts"]) == {"parameters", "code", "inputs", "upstream"}
    )
    assert (toys.dir / "rejects.csv").read_text().splitlines()[1:] == ["first|m.csv|2|a.wav|empty"]
    assert toys.run() == 0 and toys.ran() == []
    assert capsys.readouterr().out.count("up to date") == 3
    assert (
        toys.run("second.scale=5") == 0
        and toys.ran() == ["second", "third"]
        and toys.out("second") == 15.0
    )
    assert toys.run("second.scale=5", "threads=2") == 0 and toys.ran() == []
    assert toys.run("second.scale=5", "seed=2", to="first") == 0 and toys.ran() == ["first"]
    assert toys.status() == {"first": "done", "second": "stale", "third": "stale"}


def test_files_on_the_disk_count(toys):
    (toys.root / "corpus.csv").write_text("a")

    def call():
        return (toys.run("first.path=corpus.csv", to="second"), toys.ran())

    assert call() == (0, ALL[:2])
    (toys.root / "corpus.csv").write_text("b")
    assert call() == (0, ALL[:2])
    (toys.dir / "second/out.json").write_text("0")  # changed behind our back
    assert call() == (0, ["second"]) and toys.out("second") == 6.0
    assert (toys.dir / ".old/second/out.json").read_text() == "0"
    shutil.rmtree(toys.dir / "second")
    assert call() == (0, ["second"])


def test_code_counts_but_prose_and_comments_do_not(toys):
    def cells(*more):
        write_notebook(toys.root, "10_first", NOTEBOOKS["10_first"] + more)

    assert toys.run(to="first") == 0 and toys.ran() == ["first"]
    cells("# a remark")
    assert toys.run(to="first") == 0 and toys.ran() == []
    cells("x = 1")
    assert toys.run(to="first") == 0 and toys.ran() == ["first"]


def test_unknown_parameters_are_refused_before_anything_runs(toys):
    from xtts_ka.core.errors import ConfigError

    write_notebook(toys.root, "30_third", ("words = []\nwrods = []\n" + COMMON, "pass"))
    with pytest.raises(ConfigError, match="wrods"):
        toys.run()
    write_notebook(toys.root, "30_third", (COMMON, "pass"))
    with pytest.raises(ConfigError, match="does not declare.*words"):
        toys.run()
    assert toys.ran() == [] and not toys.dir.exists()


def test_wrong_calls_touch_nothing(toys):
    from xtts_ka.core.errors import ConfigError

    for kw, message in (
        (dict(only="secnod"), "did you mean `second`"),
        (dict(only="second"), "first` is pending"),
        (dict(from_="third", to="first"), "comes after"),
    ):
        with pytest.raises(ConfigError, match=message):
            toys.run(**kw)
    with pytest.raises(ConfigError, match="did you mean `second.scale`"):
        toys.run("second.scael=1")
    with pytest.raises(ConfigError, match="name of a folder"):
        toys.run("run=../elsewhere")
    assert toys.ran() == [] and not toys.dir.exists()


def test_failure_keeps_the_notebook_says_where_and_goes_on(toys, capsys):
    assert toys.run("first.mode=bad") == 1
    said = capsys.readouterr().out
    assert re.search(r"✗ 1/3 first\s+failed after .*, cell \[4\]: if mode == 'bad'", said), said
    assert (
        "ValueError: no luck\n" in said
        and "outputs/t/notebooks/10_first.ipynb" in said
        and "to go on:    xtts-ka run --config" in said
    )
    assert toys.status() == {
        "first": "failed",
        "second": "blocked",
        "third": "blocked",
    } and toys.ran() == ["first"]
    kept = json.loads((toys.dir / "notebooks/10_first.ipynb").read_text())
    assert any(o.get("ename") == "ValueError" for c in kept["cells"] for o in c.get("outputs", []))
    (toys.dir / "first/checkpoint").write_text(
        "half"
    )  # a failed stage keeps its files while it is repeated as it was
    assert (
        toys.run("first.mode=bad", to="first") == 1
        and toys.state()["first"]["attempt"] == 2
        and (toys.dir / "first/checkpoint").exists()
    )
    assert (
        toys.run() == 0
        and not (toys.dir / "first/checkpoint").exists()
        and (toys.dir / ".old/first/checkpoint").exists()
    )
    assert set(toys.status().values()) == {"done"}


@pytest.mark.parametrize("mode, how", [("die", "SIGKILL"), ("silent", "exit status 0")])
def test_a_dead_kernel_is_a_failure(toys, capsys, mode, how):
    assert toys.run(f"first.mode={mode}") == 1
    assert (
        toys.state()["first"]["error"].startswith("DeadKernelError: the kernel ended")
        and how in toys.state()["first"]["error"]
    )
    assert toys.status()["second"] == "blocked" and (toys.dir / "notebooks/10_first.ipynb").exists()


def test_an_output_left_out_is_a_failure(toys, capsys):
    toys.finish()
    write_notebook(toys.root, "30_third", NOTEBOOKS["30_third"][:2])
    assert toys.run() == 1 and toys.ran() == ["third"] and toys.status()["third"] == "failed"
    assert "did not write outputs/t/spoken.tsv" in capsys.readouterr().out


def test_only_warns_about_stale_inputs(toys, capsys):
    toys.finish()
    capsys.readouterr()
    assert toys.run("first.n=4", only="second") == 0
    assert "warning: first is out of date (parameters changed)" in capsys.readouterr().out
    assert (
        toys.ran() == [] and toys.status()["first"] == "stale"
    )  # second is made from the old outputs, and they did not change
    assert toys.run("first.n=4", only="second", force=True) == 0 and toys.ran() == ["second"]
    assert toys.run("first.n=4") == 0 and toys.ran() == ALL and toys.out("second") == 8.0


def test_list_and_dry_run_touch_nothing(toys, capsys):
    assert toys.run(dry_run=True) == 0 and toys.run(list_=True) == 0
    said = capsys.readouterr().out
    assert "1/3 first  would run: first time" in said and re.search(
        r"second +pending +multiplies", said
    )
    assert toys.ran() == [] and not toys.dir.exists()
    toys.finish()
    before = {p: p.stat().st_mtime_ns for p in toys.dir.rglob("*")}
    capsys.readouterr()
    assert toys.run("second.scale=7", dry_run=True) == 0
    said = capsys.readouterr().out
    assert (
        "✓ 1/3 first" in said
        and "2/3 second would run: parameters changed" in said
        and "3/3 third  would run: second runs again" in said
    )
    assert toys.ran() == [] and before == {p: p.stat().st_mtime_ns for p in toys.dir.rglob("*")}


def test_a_second_run_in_the_same_folder_is_refused(toys):
    from xtts_ka.pipeline.state import LockedError, RunLock

    toys.dir.mkdir(parents=True)
    with RunLock(toys.dir):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on"):
            toys.run()
    assert toys.ran() == [] and toys.run(to="first") == 0


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_reaches_the_kernel_and_the_stage_goes_on_later(toys, signum, code):
    p = toys.start("first.mode=slow")
    toys.until("first/begun")
    p.send_signal(signum)
    out, err = p.communicate(timeout=120)
    assert p.returncode == code, out + err
    assert (
        "step 0" in out and "to go on: xtts-ka run" in out and "saving and stopping" in err
    )  # lines of the kernel came through
    assert (
        (toys.dir / "first/saved").exists()
        and toys.status()["first"] == "failed"
        and "interrupted" in toys.state()["first"]["error"]
    )
    assert (
        toys.run("first.mode=slow", to="first") == 0
        and toys.state()["first"]["attempt"] == 2
        and (toys.dir / "first/saved").exists()
    )


def test_a_second_signal_stops_at_once(toys):
    deaf = (
        "import time\nhere.joinpath('begun').touch()\nfor _ in range(600):\n    try:"
        " time.sleep(.1)\n    except KeyboardInterrupt: pass"
    )
    write_notebook(toys.root, "10_first", NOTEBOOKS["10_first"][:2] + (deaf,))
    p = toys.start()
    toys.until("first/begun")
    p.send_signal(signal.SIGINT)
    time.sleep(1.3)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130 and toys.status()["first"] == "failed", out + err


def test_kill_9_of_the_runner_leaves_a_run_that_goes_on(toys):
    p = toys.start("first.mode=slow")
    toys.until("first/begun")
    p.kill()
    p.communicate()
    assert toys.status()["first"] == "running"
    (toys.dir / "first/saved").touch()
    assert (
        toys.run("first.mode=slow", to="first") == 0
    )  # waits until the kernel has noticed, which still writes
    assert toys.state()["first"]["attempt"] == 2 and toys.out("first") == 3
    assert (toys.dir / "first/holds").read_text() == "True"  # the kernel holds the lock too


def test_what_killed_writers_left_is_swept(toys):
    assert toys.run("first.mode=bad", to="first") == 1
    mine, dead = (
        f".tmp-{os.getpid()}-aa-x",
        f".tmp-{2**22 + 1}-aa-x",
    )  # no process has so high a number
    for folder in (toys.dir, toys.dir / "first/deep"):
        for name in (mine, dead):
            (folder / name / "half").mkdir(parents=True)
    assert toys.run("first.mode=bad", to="first") == 1
    assert sorted(p.name for p in toys.dir.rglob(".tmp-*")) == [mine, mine]


def test_a_report_from_before_the_last_stage_is_written_again(toys, monkeypatch):
    from xtts_ka.pipeline import runner

    toys.finish()
    page, made = toys.dir / "report/index.html", []
    page.parent.mkdir()
    page.touch()
    monkeypatch.setattr(runner, "make_report", lambda d: made.append(d) or page)
    assert toys.run() == 0 and made == [] and toys.ran() == []
    os.utime(page, ns=(0, 0))  # killed between the stage and its report
    assert toys.run() == 0 and made == [toys.dir] and toys.ran() == []


def test_a_run_that_is_done_starts_nothing(toys):
    toys.finish()
    (toys.dir / "report").mkdir()
    (toys.dir / "report/index.html").touch()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    p = toys.start()
    out, err = p.communicate(timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert p.returncode == 0 and out.count("up to date") == 3 and err.strip().endswith("False"), (
        out + err
    )  # papermill was not even imported
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_with_the_real_report(toys, monkeypatch, capsys):
    from xtts_ka.pipeline import report, runner

    monkeypatch.setattr(runner, "make_report", lambda d: Path(report.write_report(d)))
    assert toys.run("first.mode=bad") == 1
    page = toys.dir / "report/index.html"
    assert (
        "report: outputs/t/report/index.html" in capsys.readouterr().out
        and "no luck"
        in page.read_text() + "".join(p.read_text() for p in page.parent.glob("*.html"))
    )
    monkeypatch.setattr(runner, "make_report", lambda d: 1 / 0)
    assert toys.run(to="first") == 1 and toys.status()["first"] == "done"
    assert "the report could not be written" in capsys.readouterr().out
