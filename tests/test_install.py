"""The wheel, installed where nothing else is: text alone, a folder to work in, a voice with the
extra `speak`. What an installation is asked for is taken from the environment of the tests, so
that no index is needed."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_house import cpu_seconds

BUILD = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
ROOT = Path(__file__).resolve().parents[1]
LIGHT_BYTES = 40_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, root):
    "The wheel, built from a copy: a build leaves folders behind."
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pyc")
    for name in ("xtts_ka", "configs", "nbs/runs"):
        shutil.copytree(root / name, copy / name, ignore=ignore)
    (copy / "outputs").mkdir()
    one = ("setup.py", "pyproject.toml", "settings.ini", "README.md", "LICENSE", "MANIFEST.in")
    for name in (*one, "outputs/README.md"):
        shutil.copy(root / name, copy / name)
    run = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=copy, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return next(out.glob("*.whl"))


def wanted(dist: metadata.Distribution, extras: set) -> dict:
    "All that a distribution with these extras asks for, directly or not: name -> distribution."
    found, todo = {}, [(dist, extras)]
    done = set()
    while todo:
        dist, extras = todo.pop()
        for line in dist.requires or []:
            need = Requirement(line)
            envs = [{"extra": e} for e in extras or {""}]
            if need.marker and not any(need.marker.evaluate(e) for e in envs):
                continue
            name = canonicalize_name(need.name)
            key = (name, frozenset(need.extras))
            if key in done:
                continue
            done.add(key)
            own = canonicalize_name(dist.metadata["Name"]) == name
            other = dist if own else metadata.distribution(name)
            if not own:
                found[name] = other
            todo.append((other, set(need.extras)))
    return found


class Installed:
    "An environment with the wheel and what it asks for."

    def __init__(self, folder: Path, wheel: Path, extras: set, link: bool = False):
        import venv

        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
        windows = os.name == "nt"
        self.python = folder / ("Scripts/python.exe" if windows else "bin/python")
        lib = "Lib" if windows else f"lib/python3.{sys.version_info[1]}"
        self.site = folder / lib / "site-packages"
        with zipfile.ZipFile(wheel) as z:
            z.extractall(self.site)
        own = metadata.PathDistribution(next(self.site.glob("xtts_ka-*.dist-info")))
        self.names = wanted(own, extras)
        for dist in self.names.values():
            for top in {f.parts[0] for f in dist.files if f.parts[0] not in ("..", "__pycache__")}:
                self.put(Path(dist.locate_file(top)), self.site / top, link)

    def put(self, source, target, link):
        if target.exists() or not source.exists():
            return
        if link:
            target.symlink_to(source, source.is_dir())
        elif source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)

    def __call__(self, *words, cwd="/"):
        hidden = ("PYTHONPATH", "XTTS_KA_ROOT", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
        env = {k: v for k, v in os.environ.items() if k not in hidden} | {"PYTHONUTF8": "1"}
        return subprocess.run(
            [str(self.python), *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=cwd,
            env=env,
        )


@pytest.fixture(scope="module")
def light(tmp_path_factory, wheel):
    return Installed(tmp_path_factory.mktemp("light") / "env", wheel, set())


def test_the_wheel_alone_is_small(light):
    files = [p for p in light.site.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    size = sum(p.stat().st_size for p in files)
    assert size < LIGHT_BYTES, f"{size / 1e6:.1f} MB"
    assert {"pydantic", "pyyaml", "filelock", "psutil"} <= set(light.names) and not (
        {"torch", "numpy", "coqui-tts", "papermill"} & set(light.names)
    )


def test_the_wheel_alone_reads_text(light):
    code = "import xtts_ka.text.normalize, xtts_ka.text.g2p, xtts_ka.text.numbers, sys\n"
    code += "print(xtts_ka.text.numbers.cardinal(25))\n"
    code += "print([m for m in ('numpy', 'torch', 'pandas', 'soundfile') if m in sys.modules])"
    run = light("-c", code)
    assert run.stdout.splitlines() == ["ოცდახუთი", "[]"], run.stderr
    read = light("-m", "xtts_ka.cli", "normalize", "25 კგ")
    assert read.stdout == "ოცდახუთი კილოგრამი\n", read.stderr
    assert light("-m", "xtts_ka.cli", "phonemize", "და").stdout == "d a\n"


def test_the_wheel_alone_starts_quickly(light):
    light("-m", "compileall", "-q", str(light.site))  # As an installer does
    spent = cpu_seconds(str(light.python), "-c", "import xtts_ka")
    assert spent < 0.3, f"import xtts_ka took {spent:.2f} s of CPU"
    spent = cpu_seconds(str(light.python), "-m", "xtts_ka.cli", "normalize", "25 კგ")
    assert spent < 0.5, f"xtts-ka normalize took {spent:.2f} s of CPU"


@pytest.mark.parametrize(
    "words, extra",
    [
        (("-m", "xtts_ka.cli", "speak", "ა"), "speak"),
        (("-m", "xtts_ka.cli", "index"), "notebooks"),
        (("-m", "xtts_ka.cli", "run", "--config", str(ROOT / "configs/smoke.yaml")), "all"),
        (("-c", "import xtts_ka.text.tokenizer"), "tokenizers"),
        (("-c", "import xtts_ka.core.audio"), "speak"),
    ],
)
def test_a_missing_extra_is_one_sentence_that_names_it(light, words, extra):
    run = light(*words)
    last = run.stderr.strip().splitlines()[-1]
    assert (
        run.returncode
        and f"pip install 'xtts_ka[{extra}]'" in last
        or (extra == "all" and "'xtts_ka[all]'" in last)
    ), run.stderr
    if words[0] == "-m":
        assert run.returncode == 2 and len(run.stderr.splitlines()) == 1, run.stderr


def test_every_module_of_text_needs_no_more_than_tokenizers(light):
    "Or says which extra it wants; nothing ends with a bare `No module named`."
    names = sorted(p.stem for p in (light.site / "xtts_ka/text").glob("[a-z]*.py"))
    code = (
        "import importlib\n"
        f"for n in {names}:\n"
        "    try: importlib.import_module(f'xtts_ka.text.{n}')\n"
        "    except ModuleNotFoundError as e: print(n, e)\n"
    )
    run = light("-c", code)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line for line in lines if "pip install" not in line] == []
    missing = {line.split()[0] for line in lines}
    assert not missing & {"numbers", "normalize", "g2p", "chunks", "texts", "config", "latin"}


def test_the_wheel_is_whole(wheel, root):
    with zipfile.ZipFile(wheel) as z:
        held = {n: z.read(n) for n in z.namelist()}
    for kind in ("nbs/runs/*.ipynb", "configs/**/*.yaml", "configs/**/*.json", "outputs/README.md"):
        files = sorted(root.glob(kind))
        assert files
        for p in files:
            name = f"xtts_ka/project/{p.relative_to(root).as_posix()}"
            assert held.get(name) == p.read_bytes(), f"{name} is not in the wheel"
    ignored = {"__pycache__"}
    data = [
        p
        for p in (root / "xtts_ka").rglob("*")
        if p.is_file() and not ignored & {*p.parts} and p.suffix != ".pyc"
    ]
    assert [p for p in data if p.relative_to(root).as_posix() not in held] == []


def test_init_lays_out_a_folder_that_runs(light, root, tmp_path):
    folder = tmp_path / "ჩემი ხმა"
    run = light("-m", "xtts_ka.cli", "init", str(folder))
    assert run.returncode == 0, run.stderr
    for name in ("configs/smoke.yaml", "configs/vocoder/v1.yaml"):
        assert (folder / name).read_bytes() == (root / name).read_bytes()
    nb = json.loads((folder / "nbs/runs/10_corpus.ipynb").read_text(encoding="utf-8"))
    assert not any(c.get("outputs") for c in nb["cells"])
    again = light("-m", "xtts_ka.cli", "init", str(folder))
    assert again.returncode == 0 and "complete" in again.stdout
    # relative paths count from there, in every folder below
    code = "from xtts_ka.core.paths import repo_root; print(repo_root())"
    assert Path(light("-c", code, cwd=folder / "nbs/runs").stdout.strip()) == folder.resolve()
    (folder / "configs/smoke.yaml").write_text("run: mine\n", encoding="utf-8")
    (folder / "configs/demo.yaml").unlink()
    refused = light("-m", "xtts_ka.cli", "init", str(folder))
    assert refused.returncode == 2 and "smoke.yaml: is there already" in refused.stderr
    assert not (folder / "configs/demo.yaml").exists(), "nothing is written when one differs"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_the_wheel_speaks_with_the_extra(tmp_path, wheel, smoke):
    "Only what `speak` brings is there; coqui-tts, papermill and pandas are not."
    env = Installed(tmp_path / "env", wheel, {"speak"}, link=True)
    assert "torch" in env.names and not {"coqui-tts", "papermill", "pandas"} & set(env.names)
    assert not {"lightning", "gradio", "silero-vad"} & set(env.names)
    wav = next((smoke.dir / "segments/wavs").rglob("*.wav"))
    calls = {
        "xtts": ("speak", "--model", str(smoke.dir / "xtts")),
        "sovits2": ("speak", "--model", str(smoke.dir / "sovits2/model"), "--reference", str(wav)),
    }
    for family, words in calls.items():
        more = ("--text", "გამარჯობა", "--out", f"{family}.wav", "--allow-incomplete")
        more += ("--retries", "0")
        run = env("-m", "xtts_ka.cli", *words, *more, cwd=tmp_path)
        assert run.returncode == 0 and (tmp_path / f"{family}.wav").exists(), run.stderr
        assert f"{family}.wav: " in run.stdout, run.stdout
