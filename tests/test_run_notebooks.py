"""Run notebooks use each of their parameters; and Restart-and-Run-All in JupyterLab, for each in
turn, with the values that stand in it: `pytest tests/test_run_notebooks.py -m slow`."""

import ast
import json
import os
import shutil
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs/runs").glob("*.ipynb"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A repository of its own, and an environment such as JupyterLab gives to its kernels."
    from smoke import Home

    home = Home(tmp_path_factory.mktemp("lab"))
    home.env |= {"JPY_SESSION_NAME": str(home.root / "nbs/runs/here.ipynb"), "OMP_NUM_THREADS": "2"}
    home.env.pop("XTTS_KA_PROGRESS", None)
    yield home
    shutil.rmtree(home.root, ignore_errors=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_parameter_is_ignored(path):
    "A value that is declared and goes nowhere would be taken from the command line and lost."
    declared, used = set(), set()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "globals()":
                return  # Takes them by name
            if isinstance(node, ast.Name):
                own = "parameters" in cell["metadata"].get("tags", ())
                (declared if own and isinstance(node.ctx, ast.Store) else used).add(node.id)
    used.add("threads")  # Bounded by the kernel's environment
    assert declared and not declared - used


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_restart_and_run_all(lab, path, counted):
    """From the notebook's own folder, in a new kernel; the outputs of the notebooks before it are
    there."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(lab.root / "nbs/runs" / path.name, 4)
    begin = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(lab.root / "nbs/runs")}},
    )
    old = dict(os.environ)
    os.environ.clear()
    os.environ.update(lab.env)
    try:
        client.execute()
    finally:
        os.environ.clear()
        os.environ.update(old)
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells if c.source.strip()), "a cell was not run"
    shown = [
        o for c in cells for o in c.outputs if o.output_type in ("display_data", "execute_result")
    ]
    assert shown, "nothing to look at"
    counted(f"{len(cells)} cells, {len(shown)} outputs, {time.monotonic() - begin:.0f} s")
