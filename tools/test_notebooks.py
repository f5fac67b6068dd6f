"""Run the cells of notebooks as tests. tests/test_cells.py does it for each, beside the other
tests. Alone, with the CPU seconds of each: python tools/test_notebooks.py [NOTEBOOK ...]"""

import atexit
import contextlib
import gc
import io
import multiprocessing
import os
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
from do import ONE_THREAD

ROOT = Path(__file__).resolve().parents[1]
OF_TESTS = ("XTTS_KA_PROGRESS", "MPLBACKEND")  # Settings of tests/conftest.py; a user has none


def notebooks():
    "All that are tested; those of nbs/runs train, and the pipeline runs them."
    found = [(p, p.relative_to(ROOT / "nbs").parts) for p in (ROOT / "nbs").rglob("*.ipynb")]
    return sorted(p for p, at in found if at[0] != "runs" and not any(n[0] in "._" for n in at))


def ready():
    "Prepare this process for notebooks, before it imports anything heavy."
    os.environ.update(ONE_THREAD)
    for name in OF_TESTS:
        os.environ.pop(name, None)
    os.chdir(ROOT / "nbs")
    if "fork" in multiprocessing.get_all_start_methods():  # As in a kernel; a spawned one spawns
        multiprocessing.set_start_method("fork", force=True)


def failure(path):
    "What failed in a notebook, run in its folder as nbdev_test does it; empty: nothing."
    from execnb.shell import CaptureShell
    from nbdev import test as nbdev
    from nbdev.config import get_config

    said, flags, shells = io.StringIO(), get_config().tst_flags.split(), []

    def shell(path):
        shells.append(CaptureShell(path, mpl_format="png"))  # A quarter of the pixels of `retina`
        return shells[-1]

    with contextlib.redirect_stderr(said), mock.patch.object(nbdev, "CaptureShell", shell):
        passed, _ = nbdev.test_nb(Path(path), skip_flags=flags, basepath=str(ROOT))
    release(shells)
    return "" if passed else said.getvalue() or "it failed and said nothing"


def release(shells):
    """Let go of what a notebook held: gigabytes, over all of them. A shell keeps itself for the
    end of the process, and then collects garbage once for each that there was."""
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")
    for shell in shells:
        atexit.unregister(shell.atexit_operations)
        shell.history_manager.end_session()
        if thread := shell.history_manager.save_thread:
            thread.stop()
        shell.history_manager.db.close()
        shell.user_ns.clear()
    shells.clear()
    gc.collect()


def spent():
    "CPU seconds of this process and of those that it has waited for."
    return sum(os.times()[:4])


def main(paths):
    "Exit status: 1 when a notebook failed; without a name all are run, one after the other."
    paths = [Path(p).resolve() for p in paths] or notebooks()
    ready()
    failed = 0
    for path in paths:
        before, said = spent(), failure(path)
        print(f"{path.name}: {spent() - before:.1f} s of CPU{', FAILED' * bool(said)}", flush=True)
        sys.stderr.write(said)
        failed += bool(said)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
