"""What pyproject.toml cannot say: a wheel carries the run notebooks and configurations, too."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
FOLDERS = ("configs", "nbs/runs")


class BuildWithProject(build_py):
    "Copy them into `xtts_ka/project`, where `xtts-ka init` finds them."

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return  # A clone has them in place
        project = Path(self.build_lib) / "xtts_ka" / "project"
        shutil.rmtree(project, ignore_errors=True)
        hidden = shutil.ignore_patterns(".*", "__pycache__")
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, project / folder, ignore=hidden)
        (project / "outputs").mkdir()
        shutil.copy(ROOT / "outputs/README.md", project / "outputs")


setup(cmdclass={"build_py": BuildWithProject})
