"""The commands of this repository, for every system: `python tools/do.py run|test|lab|docs|...`.

`make` calls it. Any Python from 3.8 on will do: it finds uv, or puts the version of tools/uv.txt
into .tools with its digest checked, and uv then makes .venv with a Python that the package is for.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".tools"
VENV = ROOT / ".venv"
PYTHONS = ("3.11", "3.12", "3.13")  # The first is that of the lock's figures (.python-version)
CPU = VENV / "cpu-only"  # Marks an environment whose PyTorch is not that of the lock
BULK = r'name = "(torch|torchaudio|triton|nvidia-[\w-]+|cuda-[\w-]+)"\nversion = "([^"]+)"'
WINDOWS = os.name == "nt"


def say(text):
    print("do: " + text, file=sys.stderr, flush=True)


def stop(text):
    say(text)
    raise SystemExit(1)


# uv


def starts(uv):
    "Whether a program is there and answers."
    try:
        return (
            bool(uv) and not subprocess.run([str(uv), "--version"], capture_output=True).returncode
        )
    except OSError:
        return False


def find_uv():
    "uv from the path, or the one in .tools; None when there is none that starts."
    name = "uv.exe" if WINDOWS else "uv"
    folders = [TOOLS / "env" / ("Scripts" if WINDOWS else "bin"), TOOLS / "lib" / "bin"]
    return next(
        (str(u) for u in [shutil.which("uv"), *(f / name for f in folders)] if starts(u)), ""
    )


def bootstrap():
    "Install the pinned uv into .tools: in an environment of its own, else by pip alone."
    say("no uv on the PATH; installing it into .tools with Python " + sys.version.split()[0])
    shutil.rmtree(TOOLS, ignore_errors=True)
    TOOLS.mkdir()
    pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--require-hashes", "-r", str(ROOT / "tools" / "uv.txt")]
    with open(TOOLS / "venv.log", "wb") as log:
        made = subprocess.call(
            [sys.executable, "-m", "venv", str(TOOLS / "env")], stdout=log, stderr=log
        )
    if not made:
        python = TOOLS / "env" / ("Scripts/python.exe" if WINDOWS else "bin/python")
        return installed([str(python), *pip])
    shutil.rmtree(TOOLS / "env", ignore_errors=True)  # Debian makes half of it without ensurepip
    if subprocess.call([sys.executable, "-m", "pip", "--version"], stdout=subprocess.DEVNULL):
        stop(
            sys.executable + " has neither venv (see .tools/venv.log) nor pip;"
            " on Debian and Ubuntu: apt install python3-venv. Or install uv by its own installer"
        )
    return installed([sys.executable, *pip, "--target", str(TOOLS / "lib")])


def installed(words):
    "Exit status of pip; of a failure the first line says what to do."
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        say(
            "uv could not be installed: a network and a package index are needed the first time"
            " (or name one: PIP_INDEX_URL, HTTPS_PROXY; or install uv by its own installer)."
            " pip says:\n" + done.stdout.decode("utf-8", "replace").strip()
        )
    return done.returncode


def the_uv():
    "Path of a uv that starts."
    found = find_uv()
    if not found:
        if bootstrap():
            raise SystemExit(1)
        found = find_uv() or stop("uv was installed into .tools but does not start")
    return found


def environment(uv):
    "Variables of the processes: which Python, and no environment of another project."
    env = {
        k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    }
    if "UV_PYTHON" not in env and (version := python_version(uv)):
        env["UV_PYTHON"] = version
    if CPU.exists():
        env["UV_NO_SYNC"] = "1"
    return env


def python_version(uv):
    "The version of .venv, else the first that this machine has; empty: uv fetches 3.11."
    try:
        config = (VENV / "pyvenv.cfg").read_text(encoding="utf-8")
        version = re.search(r"version(?:_info)? = (\d+\.\d+)", config)[1]
        if version in PYTHONS:
            return version
    except (OSError, TypeError):
        pass
    for version in PYTHONS:
        found = interpreter(uv, version)
        if found:
            if version != PYTHONS[0]:
                say("no Python 3.11 here; taking " + version)
            return found
    return ""


def interpreter(uv, version):
    "What uv is to take for a version: the version itself, or a path; empty: not on this machine."
    find = [uv, "python", "find", "--no-python-downloads", "--no-project", version]
    if not subprocess.run(find, capture_output=True, cwd=str(ROOT)).returncode:
        return version
    # With pyenv, `python3.N` on the PATH ends with an error unless that version is chosen, and uv
    # looks no further
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [p for form in ("bin/python", "python.exe") for p in pyenv.glob(f"{version}.*/{form}")]
    return str(max(found, key=lambda p: p.stat().st_mtime)) if found else ""


# commands


class Caller:
    "Calls uv in the repository's root."

    def __init__(self):
        self.uv = the_uv()
        self.env = environment(self.uv)

    def __call__(self, *words):
        "Run uv; a failure ends this program with its exit status."
        code = subprocess.call([self.uv, *words], cwd=str(ROOT), env=self.env)
        if code:
            raise SystemExit(code)

    def last(self, *words):
        "Run uv in place of this process, so that Ctrl-C and exit status are the command's own."
        if WINDOWS:
            self(*words)
            return
        os.chdir(str(ROOT))
        os.execve(self.uv, [self.uv, *words], self.env)

    def tool(self, *words):
        self("run", "--frozen", *words)

    def fails(self, *words, **options):
        "What uv says when a call fails, else an empty text; nothing is shown."
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        done = subprocess.run([self.uv, *words], cwd=str(ROOT), env=self.env, **pipes, **options)
        return (done.stdout.decode("utf-8", "replace") or "it failed") if done.returncode else ""

    def check_network(self, *words):
        "Before uv tries for minutes: where a package must be fetched and no index answers, stop."
        if CPU.exists() or not self.fails(*words, "--inexact", "--offline", "--quiet"):
            return  # All is here
        ask = ("pip", "compile", "--quiet", "--no-deps", "--refresh", "--python", sys.executable)
        self.env.update(UV_HTTP_RETRIES="0", UV_HTTP_TIMEOUT="15")
        why = self.fails(*ask, "-", input=b"pip")
        for name in ("UV_HTTP_RETRIES", "UV_HTTP_TIMEOUT"):
            self.env.pop(name)
            self.env.update({name: os.environ[name]} if name in os.environ else {})
        if why:
            stop(NO_NETWORK + why.strip())


NO_NETWORK = (
    "no network: packages of the lock are missing here, and no package index answers. Connect (or"
    " name an index or proxy that is reachable: UV_DEFAULT_INDEX, HTTPS_PROXY) and give the same"
    " command again; or bring .venv or uv's cache (`uv cache dir`) from a machine of this kind"
    " where `python tools/do.py setup` has run. uv says:\n"
)


def sync(call):
    words = ("sync", "--frozen")  # Without the peers of bench/, whose lazy modules break tests
    call.check_network(*words)
    call(*words, "--quiet")


def setup(call, args):
    "install the locked packages into .venv (the other commands do it themselves)"
    if args == ["--cpu"]:
        return setup_cpu(call)
    if args:
        stop("setup: knows --cpu only, not " + " ".join(args))
    call.check_network("sync", "--frozen")
    if sys.platform == "linux" and not VENV.exists():
        say(
            "3.2 GB to download, 2.2 GB of them CUDA libraries. Without an NVIDIA GPU, and where"
            " PyTorch's own package index can be reached: `python tools/do.py setup --cpu`"
        )
    call("sync", "--frozen")


def setup_cpu(call):
    "The lock's packages, but PyTorch without CUDA, from PyTorch's own index."
    bulk = dict(re.findall(BULK, (ROOT / "uv.lock").read_text(encoding="utf-8")))
    leave = [word for name in sorted(bulk) for word in ("--no-install-package", name)]
    CPU.unlink() if CPU.exists() else None
    call.check_network("sync", "--frozen", *leave)
    call("sync", "--frozen", *leave)
    torch = [f"{name}=={bulk[name]}" for name in ("torch", "torchaudio")]
    call("pip", "install", "--python", str(VENV), "--torch-backend", "cpu", *torch)
    CPU.write_text(
        "PyTorch without CUDA; `python tools/do.py setup` goes back to the lock\n", encoding="utf-8"
    )


def run(call, args):
    "run the pipeline into outputs/: run [--config configs/demo.yaml] [--list] [key=value ...]"
    given = any(a == "--config" or a.startswith("--config=") for a in args)
    config = [] if given else ["--config", "configs/demo.yaml"]
    call.check_network("sync", "--frozen")
    call.last("run", "--frozen", "xtts-ka", "run", *config, *args)


def test(call, args):
    "ruff, then pytest in two processes, which also run the notebooks; arguments go to pytest"
    sync(call)
    call.env.update(ONE_THREAD)
    began, load = time.time(), getattr(os, "getloadavg", lambda: (0.0,))()[0]
    call.tool("ruff", "format", "--check", "--quiet")
    call.tool("ruff", "check", "--quiet")
    call.tool("pytest", *TWO, *args)
    if not args:
        record_test(began, load)


# In the order of tests/conftest.py: what takes longest first, so that no core waits at the end
TWO = ["-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder", "--durations", "12"]


def record_test(began, load):
    "What a whole `make test` took, for the row of bench/records.py."
    spent = os.times()
    held = {"seconds": time.time() - began, "ended": time.time(), "load": load}
    held["cpu_seconds"] = spent.children_user + spent.children_system
    path = ROOT / "bench" / "results" / "make_test.json"
    path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


# Two workers fill two cores; with as many threads each they spin, beside other work for minutes
ONE_THREAD = {
    **{f"{n}_NUM_THREADS": "1" for n in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")},
    "TOKENIZERS_PARALLELISM": "false",
}


def lint(call, args):
    "say what ruff and mypy find in notebooks, package, tests, tools and bench"
    sync(call)
    for words in (["ruff", "format", "--check"], ["ruff", "check"], ["mypy"]):
        call.tool(*words)


def quick(call, args):
    "the quick tests: systems, installation, command line, text, bad input"
    sync(call)
    call.tool("pytest", *QUICK, *args)


def versions(call, args):
    "the quick tests on each Python from 3.11 to 3.13 that is here, each in .venv-3.N"
    for version in PYTHONS:
        python = interpreter(call.uv, version)
        if not python:
            say(f"no Python {version} here, left out")
            continue
        say("Python " + version)
        call.env["UV_PYTHON"] = python
        call.env["UV_PROJECT_ENVIRONMENT"] = str(ROOT / (".venv-" + version))
        sync(call)
        call.tool("pytest", *(args or QUICK))


QUICK = [
    *(f"tests/test_{n}.py" for n in ("systems", "install", "cli", "golden_text", "golden_g2p")),
    *(f"tests/test_{n}.py" for n in ("bad_input", "loaders", "vocabulary")),
]


def lab(call, args):
    "open the notebooks in JupyterLab"
    call.last("run", "--frozen", "jupyter", "lab", *args)


def docs(call, args):
    "build the documentation site into _docs/index.html"
    call.last("run", "--frozen", "--group", "docs", "python", "tools/docs.py", *args)


def bench(call, args):
    "compare with named peers and print the ratios"
    call.last("run", "--frozen", "--group", "bench", "python", "bench/run.py", *args)


def uv(call, args):
    "call uv itself: uv run --frozen pytest tests/test_cli.py"
    call.last(*args)


def clean(call, args):
    "delete caches and built pages (never a run, never .venv)"
    for name in ("_docs", "_proc", "nbs/_proc", ".pytest_cache", ".hypothesis", "build", "dist"):
        shutil.rmtree(str(ROOT / name), ignore_errors=True)
    for folder in ("xtts_ka", "nbs", "tests", "tools", "bench"):
        for name in ("__pycache__", ".ipynb_checkpoints"):
            for found in list((ROOT / folder).rglob(name)):
                shutil.rmtree(str(found), ignore_errors=True)


COMMANDS = {
    f.__name__: f for f in (setup, run, test, quick, lint, versions, lab, docs, bench, uv, clean)
}


def main(words):
    command = COMMANDS.get(words[0]) if words else None
    if command is None:
        known = "\n".join(f"  {n:9} {f.__doc__}" for n, f in COMMANDS.items())
        print("python tools/do.py COMMAND\n\n" + known)
        return 0 if words[:1] in ([], ["help"], ["--help"], ["-h"]) else 2
    try:
        command(None if command is clean else Caller(), words[1:])
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
