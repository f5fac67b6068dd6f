"""Run the notebooks' own tests, two at a time with a thread each, and name the slow ones.
Arguments: notebooks, else all but nbs/runs (the pipeline runs those)."""

import os
import subprocess
import sys
from pathlib import Path

from do import ONE_THREAD

ROOT = Path(__file__).resolve().parents[1]
SKIP = "^([_.].*|runs)$"


def main(paths):
    command = [
        str(Path(sys.executable).with_name("nbdev_test")),
        "--n_workers",
        "2",
        "--timing",
        "--skip_folder_re",
        SKIP,
    ]
    codes = [
        subprocess.run([*command, *args], cwd=ROOT, env=os.environ | ONE_THREAD).returncode
        for args in [["--path", p] for p in paths] or [[]]
    ]
    sys.exit(max(codes))


if __name__ == "__main__":
    main(sys.argv[1:])
