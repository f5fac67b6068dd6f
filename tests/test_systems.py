"""Linux, macOS, Windows; Python 3.11 to 3.13: nothing that only one of them has is used outside the
one place that knows the difference, and what is said to hold on Windows is tried in its forms."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import house
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import do

# what only POSIX has

MODULES = set("crypt fcntl grp posix pty pwd resource syslog termios tty".split())
NAMES = set(
    "os.fork os.forkpty os.getpgid os.getuid os.geteuid os.kill os.killpg os.mkfifo os.nice"
    " os.pread os.pwrite os.sched_getaffinity os.setpgid os.setsid os.statvfs os.uname os.wait"
    " os.wait3 os.wait4"
    " signal.SIGALRM signal.SIGBUS signal.SIGCHLD signal.SIGHUP signal.SIGKILL signal.SIGUSR1"
    " signal.alarm signal.pause signal.setitimer".split()
)
KNOWS = "xtts_ka/core/processes.py"  # The one module that asks which system it is


def posix_only(source: str) -> list:
    "Imports of POSIX's modules outside `try ... except ImportError`, and its names, with lines."
    tree, guarded = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any(
            "Import" in ast.unparse(h.type) for h in node.handlers if h.type
        ):
            guarded |= {id(n) for b in node.body for n in ast.walk(b)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {a.name for a in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            names = {node.module} & MODULES
        elif isinstance(node, ast.Attribute):
            names = {ast.unparse(node)} & NAMES
        else:
            continue
        found += [f"{node.lineno}: {n}" for n in sorted(names) if id(node) not in guarded]
    return found


def test_only_one_module_knows_the_systems(root):
    found = {
        p.relative_to(root).as_posix(): posix_only(p.read_text(encoding="utf-8"))
        for p in [*house.modules(root), *sorted((root / "tools").glob("*.py"))]
    }
    assert KNOWS in found, sorted(found)[:3]
    del found[KNOWS]
    assert {k: v for k, v in found.items() if v} == {}


def test_what_only_posix_has_is_found():
    bad = "import os, fcntl\nfrom resource import getrusage\nos.kill(1, signal.SIGKILL)\n"
    assert posix_only(bad) == ["1: fcntl", "2: resource", "3: os.kill", "3: signal.SIGKILL"]
    assert posix_only("try:\n    import resource\nexcept ImportError:\n    resource = None") == []


HIDE = f"""
import builtins, os, signal, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
import psutil, filelock  # They have their own ways
MODULES, real = {sorted(MODULES)!r}, builtins.__import__
def hidden(name, globals=None, *args, **kw):
    if name in MODULES and (globals or {{}}).get("__name__", "").startswith("xtts_ka"):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return real(name, globals, *args, **kw)
builtins.__import__ = hidden
for name in {sorted(n[7:] for n in NAMES if n.startswith("signal."))!r}:
    hasattr(signal, name) and delattr(signal, name)
for name in ("fork", "uname", "pwrite", "posix_fallocate", "register_at_fork"):
    hasattr(os, name) and delattr(os, name)
from pathlib import Path
folder = Path(sys.argv[1])
"""


def test_locks_and_files_without_posix(tmp_path):
    "The modules that lock, write and watch work when POSIX's modules and names are hidden."
    code = HIDE + (
        "import xtts_ka.core.loop, xtts_ka.core.shards\n"
        "from xtts_ka.core import files, processes\n"
        "from xtts_ka.pipeline.state import LockedError, RunLock\n"
        "from xtts_ka.pipeline.signals import Interrupts\n"
        "with RunLock(folder) as lock:\n"
        "    assert lock.holder()['pid'] == os.getpid()\n"
        "    try: RunLock(folder, 0).__enter__(); print('locked twice')\n"
        "    except LockedError as e: print('refused' if str(os.getpid()) in str(e) else e)\n"
        "with Interrupts() as it: signal.raise_signal(signal.SIGTERM)\n"
        "print(it.signum == signal.SIGTERM, processes.children_cpu())\n"
        "files.atomic_write(folder / 'a.txt', 'ა')\n"
        "with files.fresh_dir(folder / 'new') as d: (d / 'b').write_bytes(b'b')\n"
        "print(sorted(p.name for p in folder.rglob('*')))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "refused",
        "True 0.0",
        "['.lock', 'a.txt', 'b', 'new']",
    ], run.stdout


def test_a_process_that_waits_for_a_lock_gets_it_when_the_holder_dies(tmp_path):
    from xtts_ka.core.processes import alive, kill, lock

    code = "import sys\nfrom xtts_ka.core.processes import lock\n" + (
        "f = open(sys.argv[1], 'a'); lock(f); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    child.stdout.readline()
    with open(tmp_path / ".lock", "a") as f:
        assert alive(child.pid) and not lock(f, wait=False)
        kill(child.pid)
        assert lock(f)
    child.wait()
    child.stdin.close(), child.stdout.close()
    assert not alive(child.pid)


# paths and encodings


@pytest.mark.parametrize(
    "rel",
    [r"C:\a.wav", "C:/a.wav", "C:a.wav", r"\\server\share\a.wav", r"..\a.wav", r"a\..\..\b", r"\a"],
)
def test_paths_of_windows_stay_inside(rel, tmp_path):
    from xtts_ka.core.errors import PathError
    from xtts_ka.core.paths import inside, outside

    assert outside(rel)
    with pytest.raises(PathError):
        inside(tmp_path, rel)


def test_shown_paths_and_names_fit_every_system(tmp_path, monkeypatch):
    from xtts_ka.core.paths import display_path, slug

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    assert display_path(tmp_path / "outputs" / "ჩემი" / "a.wav") == "outputs/ჩემი/a.wav"
    names = ["a:b", "a?b", 'a"b', "a<b", "a|b", "a*b", "ends.", "a\\b", "nul\0"]
    assert [n for n in map(slug, names) if re.search(r'[<>:"|?*\\/\0]|[. ]$', n)] == []


def test_text_files_say_their_encoding(root):
    "Windows takes an old code page where none is named."
    found = []
    for p in [*house.modules(root), *sorted((root / "tools").glob("*.py")), root / "setup.py"]:
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and says_no_encoding(node):
                found.append(f"{p.relative_to(root).as_posix()}:{node.lineno}")
    assert found == []
    bad = ast.parse(
        "open(p)\np.read_text()\np.write_text(t)\nopen(p, 'rb')\nopen(p, encoding='utf-8')"
    )
    assert [says_no_encoding(s.value) for s in bad.body] == [True, True, True, False, False]


def says_no_encoding(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    words = {k.arg for k in call.keywords}
    if "encoding" in words or None in words:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name != "open" or isinstance(call.func, ast.Attribute):
        return False
    mode = call.args[1] if len(call.args) > 1 else None
    mode = next((k.value for k in call.keywords if k.arg == "mode"), mode)
    return mode is None or not any(
        isinstance(m, ast.Constant) and "b" in str(m.value) for m in ast.walk(mode)
    )


def test_a_pipe_on_windows_carries_georgian(tmp_path):
    "Old code pages have no Georgian; there, what goes into a file or a pipe is UTF-8."
    code = (
        "import xtts_ka.core.processes as p; p.WINDOWS = True\n"
        "from xtts_ka.pipeline.cli import main; main(['normalize', '5'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert run.stdout.decode("utf-8").strip() == "ხუთი", run.stderr


# versions


def test_python_versions_agree(root):
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    assert do.PYTHONS == tuple(f"3.{n}" for n in range(int(low), int(high)))
    assert (root / ".python-version").read_text().strip() == do.PYTHONS[0]
    lock = (root / "uv.lock").read_text(encoding="utf-8")
    assert f'requires-python = ">=3.{low}, <3.{high}"' in lock
    workflow = (root / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert re.search(r"python: (\[.*\])", workflow)[1] == json.dumps([*do.PYTHONS])


def late_tags(tags: list, version: str) -> list:
    "Tags of releases that are later than the version in the settings."
    number = [int(n) for n in version.split(".")]
    return [t for t in tags if [int(n) for n in t[1:].split(".")] > number]


def test_the_version_is_not_behind_the_tags(root):
    """The version stands in settings.ini, so that a tarball without git installs offline; a release
    is a tag of that version."""
    from xtts_ka import __version__

    assert late_tags(["v0.1.0", "v0.9.2", "v0.10.0"], "0.9.2") == ["v0.10.0"]
    said = subprocess.run(["git", "tag", "--list"], cwd=root, capture_output=True, text=True)
    tags = [t for t in said.stdout.split() if re.fullmatch(r"v\d+\.\d+\.\d+", t)]
    assert late_tags(tags, __version__) == []


def test_the_lock_has_digests(root):
    lock = tomllib.loads((root / "uv.lock").read_text(encoding="utf-8"))["package"]
    files = [
        f for p in lock for f in [*p.get("wheels", []), *([p["sdist"]] if "sdist" in p else [])]
    ]
    assert len(files) > 1000 and [f["url"] for f in files if "sha256:" not in f["hash"]] == []
    names = {p["name"]: p for p in lock}
    assert {"filelock", "psutil", "num2words", "gradio", "distillmos"} <= set(names)
    assert "wandb" not in names  # A sink that sends data away


def test_extras_are_whole(root):
    "`all` is every extra but the account's; the repository's own environment has it."
    t = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    extras = t["project"]["optional-dependencies"]
    named = set(re.search(r"\[(.*)\]", extras["all"][0])[1].split(","))
    assert named == {
        "speak",
        "train",
        "notebooks",
        "score",
        "maps",
        "demo",
        "hub",
        "cluster",
        "storage",
    }
    assert "xtts_ka[all]" in t["dependency-groups"]["dev"]
    heavy = {"torch", "numpy", "coqui-tts", "tokenizers", "scipy"}
    light = {re.split(r"[>=<\[]", d)[0] for d in t["project"]["dependencies"]}
    assert not heavy & light, "the light core is text alone"


def test_ranges_leave_out_what_breaks(root):
    "Without the lock, pip takes the newest: GPT-2 of transformers 5.24 fails in a training."
    from packaging.requirements import Requirement

    t = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    speak = {r.name: r for r in map(Requirement, t["project"]["optional-dependencies"]["speak"])}
    lock = tomllib.loads((root / "uv.lock").read_text(encoding="utf-8"))["package"]
    locked = next(p["version"] for p in lock if p["name"] == "transformers")
    assert "5.24.0" not in speak["transformers"].specifier
    assert locked in speak["transformers"].specifier
    assert {"2.6.0", "2.9.1+cu126"} <= set(
        speak["torch"].specifier.filter(["2.5.1", "2.6.0", "2.9.1+cu126"])
    ), "an installed PyTorch stays"


def test_every_library_is_in_an_extra(root):
    """What the package imports is a dependency or in an extra; what another library brings is
    named with it."""
    from xtts_ka.core.extras import _PACKAGES, _same

    t = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*t["dependencies"], *(d for e in t["optional-dependencies"].values() for d in e)]
    have = {_same(re.split(r"[>=<\[]", d)[0]) for d in listed} | {"xtts-ka"}
    # of others: httpx of huggingface-hub, cycler of matplotlib, pydantic_core of pydantic; g2p_en
    # is for English, wandb for those who have an account; both are named in their message
    have |= {"httpx", "cycler", "pydantic-core", "g2p-en", "pyyaml", "wandb"}
    names = {"yaml": "pyyaml"} | _PACKAGES
    found = {
        top
        for p in house.modules(root)
        for node in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        for top in (
            [a.name.partition(".")[0] for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module.partition(".")[0]]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        if top not in sys.stdlib_module_names
    }
    assert "torch" in found
    assert {m for m in found if _same(names.get(m, m)) not in have} == set()


# the commands


def test_do_and_make_have_the_same_commands(root):
    targets = set(
        re.findall(r"^(\w+):.*## ", (root / "Makefile").read_text(encoding="utf-8"), re.M)
    )
    assert targets == (set(do.COMMANDS) | {"help"}) - {"uv"}
    said = subprocess.run(
        [sys.executable, root / "tools/do.py", "--help"], capture_output=True, text=True
    )
    assert said.returncode == 0 and all(name in said.stdout for name in do.COMMANDS)
    wrong = subprocess.run(
        [sys.executable, root / "tools/do.py", "rnu"], capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "run" in wrong.stdout


def test_do_takes_the_python_that_is_there(tmp_path, monkeypatch):
    "3.11 where there is one, else 3.12 or 3.13; an environment that was made keeps its own."
    here = {"3.12", "3.13"}

    def find(words, **kw):
        return subprocess.CompletedProcess(words, 0 if words[-1] in here else 1)

    monkeypatch.setattr(do.subprocess, "run", find)
    monkeypatch.setattr(do, "VENV", tmp_path / ".venv")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert do.python_version("uv") == "3.12"
    here.add("3.11")
    assert do.python_version("uv") == "3.11"
    here.clear()
    assert do.python_version("uv") == ""
    kept = tmp_path / "pyenv/versions/3.13.0/bin/python"  # pyenv has it, and it is not chosen
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert do.python_version("uv") == str(kept)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/pyvenv.cfg").write_text("home = /x\nversion_info = 3.13.0\n")
    assert do.python_version("uv") == "3.13"


FAKE_UV = """#!{python}
import sys
words = sys.argv[1:]
if words[:1] == ["--version"]:
    sys.exit(print("uv 9"))
if "--offline" in words or words[:2] == ["pip", "compile"]:
    sys.exit("error: Failed to fetch: tcp connect error")
print("asked:", *words)
"""


@pytest.mark.skipif(os.name == "nt", reason="the program that stands for uv is a script")
@pytest.mark.parametrize("command", ["run", "test", "setup"])
def test_without_a_network_the_first_line_says_what_to_do(root, tmp_path, command):
    "Nothing is here and no index answers: one line before uv's own, and uv is not asked further."
    (tmp_path / "tools").mkdir()
    shutil.copy(root / "tools/do.py", tmp_path / "tools")
    uv = tmp_path / "bin/uv"
    uv.parent.mkdir()
    uv.write_text(FAKE_UV.format(python=sys.executable))
    uv.chmod(0o755)
    env = {"PATH": f"{uv.parent}:/usr/bin:/bin", "UV_PYTHON": "3.11"}
    call = [sys.executable, str(tmp_path / "tools/do.py"), command]
    done = subprocess.run(call, capture_output=True, text=True, env=env)
    first, second, *_ = done.stderr.splitlines()
    assert done.returncode == 1 and "asked" not in done.stdout
    assert first.startswith("do: no network: ") and "give the same command again" in first
    assert "tcp connect error" in second


def test_uv_is_pinned_with_digests(root):
    text = (root / "tools/uv.txt").read_text(encoding="utf-8")
    assert (
        re.match(r"uv==\d+\.\d+\.\d+ \\\n", text)
        and len(re.findall("--hash=sha256:[0-9a-f]{64}", text)) > 10
    )


def test_do_starts_on_old_pythons(root):
    "It is what finds a newer one."
    ast.parse((root / "tools/do.py").read_text(encoding="utf-8"), feature_version=(3, 8))
