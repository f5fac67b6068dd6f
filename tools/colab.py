"""Execute the notebooks of colab/ in small, where only Python and PyTorch are there already, and
write into each what its cells took.

python tools/colab.py RECORDINGS                     both; RECORDINGS holds metadata.csv and sounds,
                                                     for example outputs/smoke/corpus
python tools/colab.py RECORDINGS colab/common_voice.ipynb --python 3.12 --work DIR

The wheel of this repository is installed by the notebook itself, into a new environment in which
uv has put the lock's PyTorch; that it stays untouched is checked. The runs are those of
configs/smoke.yaml. Kept is the table alone, not what the cells print."""

import argparse
import csv
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import datetime
from pathlib import Path

import lean  # noqa: F401
import nbformat
from do import ROOT, interpreter, the_uv
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
LOCKED = r'name = "(torch|torchaudio|ipykernel)"\nversion = "([^"]+)"'
BUILD = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
CLIPS = 40
COLUMNS = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents"
    " variant locale segment"
).split()


# what the notebooks find


def clips(recordings: Path) -> list:
    "(file, text, speaker) of the first recordings of each speaker."
    with open(recordings / "metadata.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f, delimiter="|", quoting=csv.QUOTE_NONE))
    names = sorted({r["speaker_name"] for r in rows})
    chosen = [[r for r in rows if r["speaker_name"] == n][: CLIPS // len(names)] for n in names]
    found = [(r["audio_file"], r["text"], r["speaker_name"]) for one in chosen for r in one]
    return [(recordings / file, text, name) for file, text, name in found]


def as_recordings(found: list, drive: Path):
    "recordings/ as the first notebook asks for it, with one line that cannot be used."
    home = drive / "recordings"
    home.mkdir(parents=True)
    lines = ["audio_file|text|speaker_name", "gone.wav|ეს ფაილი აღარ არის.|ketevan"]
    for n, (file, text, name) in enumerate(found):
        shutil.copy(file, home / f"{n:04}{file.suffix}")
        lines.append(f"{n:04}{file.suffix}|{text}|{name}")
    (home / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def as_common_voice(found: list, drive: Path):
    "common_voice_ka.tar.gz as a release is packed: clips in MP3, tables of what was voted for."
    from xtts_ka.core.audio import read_audio, write_audio

    drive.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as d:
        home = Path(d) / "cv-corpus-27.0/ka"
        (home / "clips").mkdir(parents=True)
        lines = ["\t".join(COLUMNS)]
        for n, (file, text, name) in enumerate(found):
            clip = f"common_voice_ka_{n:08}.mp3"
            write_audio(home / "clips" / clip, *read_audio(file, 32000))
            row = dict.fromkeys(COLUMNS, "") | {"path": clip, "sentence": text, "locale": "ka"}
            row["client_id"] = hashlib.sha512(name.encode()).hexdigest()
            lines.append("\t".join((row | {"up_votes": "2", "down_votes": "0"}).values()))
        (home / "validated.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with tarfile.open(drive / "common_voice_ka.tar.gz", "w:gz") as tar:
            tar.add(home.parent, home.parent.name)


# the machine they find


def wheel(work: Path) -> Path:
    "Of what git has here, committed or not."
    source = work / "source"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    for name in names.decode().split("\0"):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-c", BUILD, str(work)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    return next(work.glob("*.whl"))


def environment(work: Path, version: str) -> Path:
    "A Python with the lock's PyTorch and what a kernel needs; its python."
    locked = dict(re.findall(LOCKED, (ROOT / "uv.lock").read_text(encoding="utf-8")))
    uv, home = the_uv(), work / "env"
    python = interpreter(uv, version) or version
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", python, str(home)], check=True)
    found = home / "bin/python"
    if not found.exists():
        found = home / "Scripts/python.exe"
    packages = [f"{name}=={number}" for name, number in locked.items()]
    install = [uv, "pip", "install", "--quiet", "--python", str(found), *packages]
    subprocess.run(install, check=True)
    return found


def torch_files(python: Path) -> str:
    "Version and time of PyTorch; a new installation changes it."
    code = "import importlib.util, os, importlib.metadata as m;"
    code += "p = importlib.util.find_spec('torch').origin;"
    code += "print(m.version('torch'), os.stat(p).st_ino, os.stat(p).st_mtime_ns)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout


# the execution


def execute(path: Path, parameters: dict, python: Path, folder: Path):
    "The notebook with these parameters, executed; each code cell has its times."
    nb = nbformat.read(path, as_version=4)
    at = next(n for n, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", []))
    code = "".join(f"{name} = {value!r}\n" for name, value in parameters.items())
    nb.cells.insert(at + 1, nbformat.v4.new_code_cell(code, id="injected"))
    manager = AsyncKernelManager()
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.kernel_spec.argv = command
    client = NotebookClient(nb, km=manager, timeout=None, resources={"metadata": {"path": folder}})
    own = ("PYTHONPATH", "VIRTUAL_ENV", "XTTS_KA_ROOT", "IN_TEST")
    try:
        client.execute(env={k: v for k, v in os.environ.items() if k not in own})
    finally:
        nbformat.write(nb, folder / path.name)
    return nb


def seconds(cell) -> float:
    "From the beginning of a cell to its answer."
    times = cell.metadata["execution"]
    begin, end = (times[k] for k in ("iopub.execute_input", "shell.execute_reply"))
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def table(nb, about: str) -> str:
    "What each code cell took, by the heading above it."
    rows, heading = [], "Settings"
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            heading = (re.findall(r"^## (.+)$", cell.source, re.M) or [heading])[-1]
        elif cell.id != "injected":
            rows.append(f"| {heading} | {seconds(cell):.0f} s |")
    head = ["## What the cells took", "", about, "", "| cell | time |", "|---|---|"]
    return "\n".join([*head, *rows])


def keep(path: Path, text: str):
    "The table at the end of the notebook, in place of an earlier one."
    nb = json.loads(path.read_text(encoding="utf-8"))
    cells = [c for c in nb["cells"] if c["id"] != "took"]
    cell = {"cell_type": "markdown", "id": "took", "metadata": {}}
    nb["cells"] = [*cells, cell | {"source": text.splitlines(keepends=True)}]
    path.write_text(json.dumps(nb, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def try_one(path: Path, recordings: Path, version: str, work: Path):
    "One notebook from nothing, and its table."
    drive, made = work / "drive", wheel(work)
    found = clips(recordings)
    common = path.stem == "common_voice"
    (as_common_voice if common else as_recordings)(found, drive)
    python = environment(work, version)
    before = torch_files(python)
    parameters = {
        "SOURCE": f"xtts_ka[train,notebooks] @ {made.resolve().as_uri()}",
        "DRIVE": str(drive),
        "WORK": str(work / "fast"),
        "CONFIG": "configs/smoke.yaml",
    } | ({"BASE": "none", "OVERRIDES": ""} if common else {})
    nb = execute(path, parameters, python, work)
    if torch_files(python) != before:
        raise SystemExit(f"{path.name}: PyTorch was installed anew")
    got = subprocess.run([python, "--version"], capture_output=True, text=True).stdout.split()[1]
    keep(
        path,
        table(
            nb,
            f"Executed in small by `python tools/colab.py`: `configs/smoke.yaml` on {len(found)}"
            f" recordings, without a GPU, on {os.cpu_count()} cores of a {platform.system()}"
            f" machine that others use too, with Python {got} and PyTorch {before.split()[0]},"
            " which stayed as it was; installed by pip. Times are of the clock.",
        ),
    )
    print(f"{path.relative_to(ROOT)}: every cell was executed; {work}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("notebooks", type=Path, nargs="*", default=NOTEBOOKS)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--work", type=Path, help="new folder that stays; by default one that goes")
    args = parser.parse_args()
    for path in args.notebooks:
        with tempfile.TemporaryDirectory() as d:
            work = (args.work / path.stem if args.work else Path(d)).resolve()
            work.mkdir(parents=True, exist_ok=True)
            try_one(path.resolve(), args.recordings.resolve(), args.python, work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
