"""What every test shares: the repository's root, and a copy of it in which tools may write."""
import os, shutil
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("XTTS_KA_PROGRESS", "off")
os.environ.setdefault("MPLBACKEND", "agg")

@pytest.fixture(scope="session")
def root(): return ROOT

@pytest.fixture
def workshop(tmp_path):
    "Notebooks, package and settings in a folder of their own, so that export and clean change nothing here."
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_proc")
    for name in ("nbs", "xtts_ka"): shutil.copytree(ROOT/name, tmp_path/"copy"/name, ignore=ignore)
    for name in ("settings.ini", "pyproject.toml"): shutil.copy(ROOT/name, tmp_path/"copy"/name)
    return tmp_path/"copy"
