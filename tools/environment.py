"""Write environment.yml from uv.lock, so that conda installs the packages that uv does.

`uv run python tools/environment.py` after each change of the lock; a test compares the two."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPORT = "uv export --frozen --no-hashes --no-annotate --no-header --no-emit-project"
HEAD = """\
# For conda users: conda env create -f environment.yml && conda activate xtts_ka
# It has the packages of uv.lock, in the same versions (tools/environment.py wrote it). With it
# `xtts-ka run --config configs/demo.yaml` and `pytest` work as they are; `make` goes on using uv.
name: xtts_ka
channels: [conda-forge]
dependencies:
  - python={python}
  - make
  - uv
  - pip
  - pip:
"""


def environment(
    requirements: str,  # Of `uv export`
    python: str,  # As in `3.11`
) -> str:  # environment.yml
    "The file: locked packages, then the repository itself without its dependencies' ranges."
    lines = [line.strip() for line in requirements.splitlines() if line.strip()]
    pins = [f'    - "{line}"' for line in lines if re.match(r"[\w.-]+==", line)]
    if len(pins) != len(lines):
        odd = next(line for line in lines if not re.match(r"[\w.-]+==", line))
        raise SystemExit(f"uv export: {odd!r} is no locked package")
    return HEAD.format(python=python) + "\n".join([*pins, '    - "-e ."']) + "\n"


def main():
    python = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
    python = ".".join(python.split(".")[:2])
    call = [sys.executable, "tools/do.py", *EXPORT.split()]  # the pinned uv
    done = subprocess.run(call, cwd=ROOT, encoding="utf-8", capture_output=True)
    if done.returncode:
        raise SystemExit(f"{EXPORT}: {done.stderr.strip()}")
    (ROOT / "environment.yml").write_text(environment(done.stdout, python), encoding="utf-8")


if __name__ == "__main__":
    main()
