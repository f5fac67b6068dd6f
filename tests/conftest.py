"""What every test shares: the repository's root, a copy of it in which tools may write, and one
finished smoke run."""

import os
import shutil
from pathlib import Path

import pytest

from xtts_ka.core.processes import without_iri_grammar

without_iri_grammar()  # A second less in each process
ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("XTTS_KA_PROGRESS", "off")
os.environ.setdefault("MPLBACKEND", "agg")
for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON"):  # Two workers on two cores
    os.environ.setdefault(f"{name}_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# What takes longest is begun first, and notebooks last: a long one begun at the end would leave
# the other core without work
LONG = (
    "smoke",
    *(f"test_{n}.py" for n in ("decode", "curate_road", "pretrain", "scorers", "benchmark")),
    *(f"test_{n}.py" for n in ("speaker_encoder", "vocoder_train", "sovits_resume", "house")),
)


def group(item):
    "The smoke run's tests stay together, so that there is one; others by file, notebooks alone."
    if "smoke" in getattr(item, "fixturenames", ()):
        return "smoke"
    notebook = getattr(item, "callspec", None) and item.callspec.params.get("notebook")
    return f"nbs/{notebook.parent.name}/{notebook.name}" if notebook else item.path.name


@pytest.hookimpl(tryfirst=True)  # Before xdist reads the marks
def pytest_collection_modifyitems(items):
    "For several workers (`tools/do.py`): what stays together, and the order of the groups."
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    place = {name: n for n, name in enumerate(LONG)}

    def turn(item):
        name = group(item)
        return place.get(name, len(place) + name.startswith("nbs/"))

    items.sort(key=turn)


def pytest_terminal_summary(terminalreporter):
    "What tests counted with `record_property('count', ...)`, whichever process ran them."
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "count":
                terminalreporter.write_line(
                    f"{report.nodeid.rpartition('::')[2].partition('@')[0]}: {value}"
                )


@pytest.fixture
def counted(record_property):
    "Call it with a line that says how many of what were tried; it stands below the results."
    return lambda line: record_property("count", line)


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def unpacked(tmp_path_factory):
    "Recordings of Parquet and tar files are unpacked here, not into `data/unpacked`."
    home = tmp_path_factory.getbasetemp() / "unpacked"
    os.environ.setdefault("XTTS_KA_UNPACKED", str(home))


@pytest.fixture
def workshop(tmp_path):
    """Notebooks, package and settings in a folder of their own, so that export and clean change
    nothing here."""
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_proc")
    for name in ("nbs", "xtts_ka"):
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=ignore)
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, request):
    """The smoke run from nothing to speech, once for all tests that look at it; nobody may change
    its files."""
    from smoke import Home

    home = Home(tmp_path_factory.mktemp("smoke"))
    home.first = home.run()
    assert home.first.returncode == 0, (
        f"the smoke run ended with {home.first.returncode}:\n{home.first.stdout}{home.first.stderr}"
    )
    yield home
    if not request.session.testsfailed:
        shutil.rmtree(home.root)  # 150 MB; after a failure it is what one wants to look at
