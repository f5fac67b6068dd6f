"""Every notebook's own tests: its cells run in its folder, one after the other. What trains (the
notebooks of nbs/runs) is run by the pipeline."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from conftest import LONG, group

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from test_notebooks import failure, notebooks, ready


class Runner:
    """A process that runs one notebook after the other: heavy libraries are imported once, and what
    a cell sets stays away from the other tests."""

    pool = None

    def __call__(self, path):
        if not self.pool:
            spawn = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(1, spawn, initializer=ready)
        try:
            return self.pool.submit(failure, str(path)).result()
        except BrokenProcessPool as e:
            self.pool = None
            return f"{path}: the process ended: {e}"


@pytest.fixture(scope="session")
def runner():
    yield (held := Runner())
    if held.pool:
        held.pool.shutdown()


@pytest.mark.parametrize(
    "notebook", notebooks(), ids=lambda p: p.relative_to(ROOT / "nbs").as_posix()
)
def test_cells(notebook, runner):
    assert not (said := runner(notebook)), said


# what runs them

THREADS = """import os, torch
names = [f"{n}_NUM_THREADS" for n in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")]
assert [os.environ.get(n) for n in names] == ["1"] * 5, os.environ
assert torch.get_num_threads() == 1"""


def notebook_file(path, source):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=kernel), path)
    return path


def test_the_process_has_one_thread(runner, tmp_path):
    assert runner(notebook_file(tmp_path / "threads.ipynb", THREADS)) == ""


def test_a_failing_cell_and_a_crash_are_said(runner, tmp_path):
    "The notebook after a crash runs in a new process."
    bad = notebook_file(tmp_path / "bad.ipynb", "assert 1 == 2, 'not equal'")
    assert "AssertionError: not equal" in (said := runner(bad)) and "bad.ipynb" in said
    alone = Runner()
    dead = notebook_file(tmp_path / "dead.ipynb", "import os; os._exit(3)")
    assert "the process ended" in alone(dead)
    assert alone(notebook_file(tmp_path / "good.ipynb", "1 + 1")) == ""
    alone.pool.shutdown()


def test_notebooks_come_last_and_what_is_long_first(request):
    "Else a core waits at the end; a name of `LONG` that no file has would change nothing."
    groups = list(dict.fromkeys(map(group, request.session.items)))
    cells = [g.startswith("nbs/") for g in groups]
    assert cells == sorted(cells)
    assert [g for g in groups if g in LONG] == [name for name in LONG if name in groups]
    assert all(g == "smoke" or (ROOT / "tests" / g).is_file() for g in LONG)
