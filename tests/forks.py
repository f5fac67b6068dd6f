"""Processes that are killed, stopped, or work side by side: each is forked from one that has
imported what is heavy, so that a test does not spend its time on imports. One server for all test
files of a worker."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["torch", "lightning_fabric", "librosa", "sklearn.metrics"]
    + [f"xtts_ka.sovits.train_{part}" for part in ("ar", "decoder", "semantic")]
    + ["xtts_ka.vocoder.train", "xtts_ka.speaker.train", "xtts_ka.speaker.commands"]
)


def _begin(said, env, cwd, target, args):
    "In the new process: its variables, folder and streams; the result is the exit status."
    os.environ.update(env)
    os.chdir(cwd)
    with open(said, "wb") as f:
        for stream in (1, 2):
            os.dup2(f.fileno(), stream)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    sys.exit(target(*args))


class Forked:
    "`target(*args)` in a process of its own, to be waited for as a `subprocess.Popen`."

    def __init__(self, target, *args, env=None, cwd="."):
        file, self.said = tempfile.mkstemp()
        os.close(file)
        words = (self.said, env or {}, os.path.abspath(cwd), target, args)
        self.process = FORK.Process(target=_begin, args=words)
        self.process.start()

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def send_signal(self, signum):
        os.kill(self.process.pid, signum)

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode

    def communicate(self):
        "(what it said, both streams together; None)."
        self.wait()
        text = Path(self.said).read_text(encoding="utf-8", errors="replace")
        os.unlink(self.said)
        return text, None
