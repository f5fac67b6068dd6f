"""A run whose terminal goes away: `| head`, a closed standard output, SIGHUP, Ctrl-C at once."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from test_runner import shelf, toys  # noqa: F401 fixtures

from xtts_ka.core.errors import stopping_signals
from xtts_ka.pipeline.signals import Interrupts, RunInterrupted, held_back


def test_a_closed_terminal_saves_and_stops():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` may have started the tests
    with Interrupts(lambda line: None) as interrupts:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
        with pytest.raises(RunInterrupted) as found:
            interrupts.check()
    assert found.value.code == 129
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As under `nohup`
    try:
        assert stopping_signals() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reader_that_has_gone_stops_the_run_once_and_quietly():
    from xtts_ka.pipeline.runner import Screen

    read, write = os.pipe()
    os.close(read)
    out, told = os.fdopen(write, "w"), []
    screen = Screen(out)
    screen.lost = lambda: told.append(1)
    for line in "abc":
        screen.say(line)
    assert told == [1]
    out.close()  # Nothing is left that Python could fail to write


def test_ctrl_c_waits_until_a_process_is_ready_for_it():
    code = (
        "import time; time.sleep(0.2)\n"
        "from xtts_ka.pipeline.signals import Interrupts\n"
        "with Interrupts(lambda line: None) as i: time.sleep(0.01); print(i.signum)"
    )
    with held_back():
        p = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    p.send_signal(signal.SIGINT)  # It has not even begun
    out, err = p.communicate(timeout=60)
    assert (p.returncode, out.strip(), err) == (0, str(int(signal.SIGINT)), "")


def test_closed_streams_never_write_into_a_file_of_ours(tmp_path):
    code = (
        "from xtts_ka.pipeline.cli import _open_streams\n_open_streams()\n"
        "f = open('a', 'w'); print('said'); import sys; sys.stderr.write('said')\nf.close()"
    )
    line = f'{sys.executable} -c "$CODE" <&- >&- 2>&-'
    env = os.environ | {"CODE": code}
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, env=env).returncode == 0
    assert (tmp_path / "a").read_text() == ""


def test_a_run_into_head_saves_and_its_record_is_true(toys):  # noqa: F811
    line = f"{sys.executable} drive.py first.mode=slow | head -n 3 >/dev/null"
    env = os.environ | {
        "XTTS_KA_ROOT": str(toys.root),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(toys.root), os.environ.get("PYTHONPATH")))),
    }
    p = subprocess.run(
        ["sh", "-c", line], cwd=toys.root, env=env, capture_output=True, text=True, timeout=240
    )
    state = json.loads((toys.dir / "pretrain_progress.json").read_text())["stages"]["first"]
    assert (toys.dir / "first/saved").exists() and state["status"] == "failed"
    assert "interrupted (SIGPIPE)" in state["error"] and "Traceback" not in p.stderr, p.stderr


def test_ctrl_z_pauses_the_kernel_too():
    code = "import time, sys\nfor i in range(600): print(i, flush=True); time.sleep(0.02)"
    kernel = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, start_new_session=True
    )
    runner = (
        "import sys, time\nfrom xtts_ka.pipeline.signals import Interrupts\n"
        "with Interrupts() as i:\n    i.busy(int(sys.argv[1])); print('ready', flush=True)\n"
        "    time.sleep(60)"
    )
    p = subprocess.Popen([sys.executable, "-c", runner, str(kernel.pid)], stdout=subprocess.PIPE)

    def state(process):
        with open(f"/proc/{process.pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0]

    def both(wanted):
        end = time.monotonic() + 30
        while not all(state(q) in wanted for q in (p, kernel)):
            assert time.monotonic() < end, (state(p), state(kernel))
            time.sleep(0.02)

    try:
        assert p.stdout.readline()
        p.send_signal(signal.SIGTSTP)
        both("T")
        p.send_signal(signal.SIGCONT)
        both("SR")
    finally:
        for q in (p, kernel):
            q.kill()
            q.wait()
        p.stdout.close()
