"""The repository keeps its own rules (ARCHITECTURE.md): each rule holds here, and is shown to fail
on a bad example."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import house
import pytest

# settings


def test_settings_and_pyproject_agree(root, tmp_path):
    assert house.unequal_settings(root) == []
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(root / name, tmp_path / name)
    ini = tmp_path / "settings.ini"
    ini.write_text(
        re.sub(r"^version = .*", "version = 9.9.9", ini.read_text(encoding="utf-8"), flags=re.M),
        encoding="utf-8",
    )
    assert [b.split(":")[0] for b in house.unequal_settings(tmp_path)] == ["version"]


# notebooks


def test_notebooks_and_package_in_step(workshop):
    "Nothing differs from what the notebooks export but two edits, which are found."
    assert house.misplaced(workshop) == []
    edited = workshop / "xtts_ka/core/errors.py"
    edited.write_text(edited.read_text(encoding="utf-8") + "\nedited = True\n", encoding="utf-8")
    (workshop / "xtts_ka/core/orphan.py").write_text("alone = True\n")
    index = "xtts_ka/_modidx.py: differs from its notebook; run nbdev_export"  # It lists orphans
    breaches = sorted(b for b in house.out_of_step(workshop) if b != index)
    assert len(breaches) == 2, breaches
    assert breaches[0].startswith("xtts_ka/core/errors.py: differs")
    assert breaches[1].startswith("xtts_ka/core/orphan.py: no notebook")


def test_notebooks_are_clean(workshop):
    "All but one, to which something is done, and which is found."
    dirty = workshop / "nbs/core/errors.ipynb"
    nb = json.loads(dirty.read_text(encoding="utf-8"))
    next(c for c in nb["cells"] if c["cell_type"] == "code")["execution_count"] = 7
    dirty.write_text(json.dumps(nb, ensure_ascii=False), encoding="utf-8")
    assert house.unclean(workshop) == ["nbs/core/errors.ipynb: run nbdev_clean"]


def test_run_notebooks_export_nothing_and_have_parameters(root):
    runs = sorted((root / "nbs/runs").glob("*.ipynb"))
    assert runs and not [n.name for n in runs if house.exported_to(n)]
    for n in runs:
        tags = [
            t
            for c in json.loads(n.read_text(encoding="utf-8"))["cells"]
            for t in c["metadata"].get("tags", [])
        ]
        assert tags.count("parameters") == 1, (
            f"{n.name}: one cell tagged parameters is needed, found {tags.count('parameters')}"
        )


# imports


def test_imports_go_down_only(root, tmp_path):
    assert house.upward_imports(root / "xtts_ka") == []
    for folder in ("core", "text", "corpus", "speaker", "vocoder", "xtts", "attic"):
        (tmp_path / "xtts_ka" / folder).mkdir(parents=True)
    bad = {
        "core/a.py": "from ..text.b import c",
        "text/a.py": "def f():\n    import xtts_ka.corpus.x",
        "vocoder/a.py": "from xtts_ka import speaker",
        "attic/a.py": "",
        "corpus/a.py": "from ..text.b import c",
        "xtts/a.py": "from ..vocoder import mel\nfrom ..core import audio",
    }
    for name, source in bad.items():
        (tmp_path / "xtts_ka" / name).write_text(source)
    assert house.upward_imports(tmp_path / "xtts_ka") == [
        "a.py: folder attic has no place in the house; add it to LEVELS",
        "core/a.py: imports xtts_ka.text.b",
        "text/a.py: imports xtts_ka.corpus.x",
        "vocoder/a.py: imports xtts_ka.speaker",
    ]


def test_no_two_modules_import_each_other(root, tmp_path):
    "Also inside functions: there it only looks as if there were no circle."
    assert house.import_circles(root / "xtts_ka") == []
    (tmp_path / "xtts_ka/a").mkdir(parents=True)
    for name, source in {
        "__init__": "",
        "one": "def f():\n    from xtts_ka.a.two import g",
        "two": "from . import three",
        "three": "from .one import f",
        "above": "from .one import f",
        "below": "import os",
    }.items():
        (tmp_path / f"xtts_ka/a/{name}.py").write_text(source)
    found = house.import_circles(tmp_path / "xtts_ka")
    assert found == ["xtts_ka.a.one", "xtts_ka.a.three", "xtts_ka.a.two"]


# style


def test_functions_are_short(root, tmp_path, record_property):
    figures = house.length_figures(lengths := house.function_lengths(house.modules(root)))
    record_property("function_lengths", str(figures))
    print(f"\nfunctions: {figures}")
    assert figures["median"] <= 12 and figures["p90"] <= 40, figures
    assert [f for n, f in lengths if n > 100] == []
    long = tmp_path / "long.py"
    long.write_text("def f():\n" + "    x = 1\n" * 100)
    assert house.function_lengths([long])[-1][0] == 101


def code_of(root):
    "Every notebook and every written file of code, as (name, source)."
    for n in house.notebooks(root):
        yield from ((n.relative_to(root).as_posix(), c) for c in house.cells(n))
    for folder in ("tests", "tools", "bench"):
        for p in sorted((root / folder).rglob("*.py")):
            yield p.relative_to(root).as_posix(), p.read_text(encoding="utf-8")


def test_lines_are_narrow(root):
    assert [w for name, source in code_of(root) for w in house.wide_lines(source, name)] == []
    assert house.wide_lines("x = 1\n" + "y" * 101, "bad.py") == ["bad.py:2"]
    assert house.wide_lines(f"| {'a' * 120} |\n# https://{'b' * 120}") == []


def test_lines_of_a_body_are_short(root):
    lengths = [len(line) for n in house.notebooks(root) for line in house.body_lines(n)]
    assert house.quantiles(lengths)[0] <= 45, house.quantiles(lengths)


def notebook_file(path, *cells):
    "A notebook with code cells, each a source and its outputs."
    found = [
        {"cell_type": "code", "metadata": {}, "source": s, "outputs": o, "execution_count": None}
        for s, o in cells
    ]
    path.write_text(json.dumps({"cells": found, "metadata": {}, "nbformat": 4}), encoding="utf-8")
    return path


def test_cells_are_small(root, tmp_path):
    sizes = [size for n in house.notebooks(root) for size in house.cell_sizes(n)]
    median, most = house.quantiles(sizes)
    print(f"\nexported cells: {len(sizes)}, median {median}, 90th percentile {most}")
    assert median <= 22 and most <= 45
    bad = notebook_file(tmp_path / "a.ipynb", ("#| export\n" + "x = 1\n\n" * 46, []))
    assert house.cell_sizes(bad) == [46]


PICTURE = {"output_type": "display_data", "data": {"image/png": ""}, "metadata": {}}


def test_notebooks_show_something(root, tmp_path):
    notebooks = house.notebooks(root)
    assert house.silent(notebooks) == []
    shown = [n.name for n in notebooks if house.illustrated(n)]
    print(f"\n{len(shown)} notebooks show a picture or play a sound")
    assert len(shown) >= 60
    head = ("#| default_exp a", [])
    mute = notebook_file(tmp_path / "mute.ipynb", head, ("x = 1", []))
    loud = notebook_file(tmp_path / "loud.ipynb", head, ("x", [PICTURE]))
    assert house.silent([mute, loud]) == ["mute.ipynb"]
    assert [house.illustrated(n) for n in (mute, loud)] == [False, True]


def test_axes_of_notebooks_are_named(root, tmp_path):
    assert [b for n in house.notebooks(root) for b in house.bare_plots(n)] == []
    helper = "def show(ax):\n    ax.set(xlabel='seconds', ylabel='Hz')"
    half = "def half(ax):\n    ax.set(xlabel='seconds')"
    draw = "fig, ax = plt.subplots()\n"
    named = notebook_file(tmp_path / "named.ipynb", (helper, []), (draw + "show(ax)", []))
    bare = notebook_file(tmp_path / "bare.ipynb", (half, []), (draw + "half(ax)", []), (draw, []))
    assert house.bare_plots(named) == []
    assert house.bare_plots(bare) == ["bare.ipynb: code cell 1", "bare.ipynb: code cell 2"]


def test_every_family_has_the_same_floor_plan(root):
    plan = house.floor_plan((root / "ARCHITECTURE.md").read_text(encoding="utf-8"))
    assert set(plan) == {"speaker", "vocoder", "xtts", "sovits"}
    assert all(modules for roles in plan.values() for modules in roles.values())
    assert house.rooms_missing(plan, root / "xtts_ka") == []
    assert house.rooms_missing({"xtts": {"options": ["konfig"]}}, root / "xtts_ka") == [
        "xtts/konfig"
    ]


def test_old_paths_of_modules_still_work():
    code = "import warnings; warnings.simplefilter('error'); import xtts_ka.xtts.speak"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "FutureWarning: xtts_ka.xtts.speak is now xtts_ka.xtts.infer" in run.stderr
    code = "from xtts_ka.xtts.speak import KaXtts; print(KaXtts.__module__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "xtts_ka.xtts.infer", run.stderr


def test_nothing_forbidden(root):
    breaches = [
        b
        for p in house.modules(root)
        for b in house.forbidden(p.read_text(encoding="utf-8"), p.relative_to(root).as_posix())
    ]
    breaches += [
        b
        for n in house.notebooks(root)
        for b in house.forbidden(house.notebook_source(n), n.relative_to(root).as_posix())
    ]
    breaches += [
        b
        for p in sorted((root / "tools").glob("*.py"))
        for b in house.forbidden(p.read_text(encoding="utf-8"), p.name)
    ]
    assert breaches == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle as p",
        "from pickle import loads",
        "import joblib",
        "pickle.load(f)",
        "pickle.dump(x, f)",
        "pickle.Unpickler(f)",
        "pickle.loads(data)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "eval('1')",
        "torchaudio.load(p)",
        "AutoModel.from_pretrained(p)",
        "AutoModel.from_pretrained(p, trust_remote_code=True, use_safetensors=True)",
        "AutoModel.from_pretrained(p, trust_remote_code=False)",
        "AutoTokenizer.from_pretrained(p, **options)",
        "try: f()\nexcept: pass",
    ],
)
def test_forbidden_is_found(source):
    assert len(house.forbidden(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "torch.load(p, weights_only=True)",
        "np.load(p, allow_pickle=False)",
        "yaml.load(t, Loader=yaml.SafeLoader)",
        "yaml.safe_load(t)",
        "AutoModel.from_pretrained(p, trust_remote_code=False, use_safetensors=True)",
        "AutoTokenizer.from_pretrained(p, trust_remote_code=False)",
        "kind.from_pretrained(None, state_dict=s, trust_remote_code=False)",
        "try: f()\nexcept pickle.UnpicklingError: pass",
        "pickle.loads(pickle.dumps(x))",
        "try: f()\nexcept ValueError: pass",
        "'import pickle'",
    ],
)
def test_allowed_is_let_through(source):
    assert house.forbidden(source) == []


# outputs


def test_outputs_carry_no_code(root):
    assert house.walk_outputs(root / "outputs") == []


class Foreign:
    "Not a tensor: torch writes it as a pickle."


def test_a_bad_output_tree_is_found(tmp_path):
    import numpy as np
    import torch

    (tmp_path / "a").mkdir()
    torch.save({"w": torch.zeros(2), "step": 3}, tmp_path / "a/good.pth")
    torch.save(Foreign(), tmp_path / "a/class.pt")
    (tmp_path / "a/cut.pth").write_bytes((tmp_path / "a/good.pth").read_bytes()[:-200])
    (tmp_path / "speakers.pkl").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    assert [b.split(":")[0] for b in house.walk_outputs(tmp_path)] == [
        "a/class.pt",
        "a/cut.pth",
        "objects.npy",
        "speakers.pkl",
    ]


# start-up


def cpu_seconds(*command, runs=3):
    "The least CPU time of some runs: the load of the machine only ever adds."
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, cwd="/")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_import_is_quick():
    assert (spent := cpu_seconds(sys.executable, "-c", "import xtts_ka")) < 0.5, (
        f"import xtts_ka took {spent:.2f} s of CPU"
    )


def test_help_is_quick():
    command = Path(sys.executable).with_name("xtts-ka")
    assert (spent := cpu_seconds(command, "--help")) < 0.5, (
        f"xtts-ka --help took {spent:.2f} s of CPU; import heavy libraries inside functions"
    )


def test_slow_start_would_be_found():
    assert (
        cpu_seconds(
            sys.executable, "-c", "import time\nwhile time.process_time() < .6: pass", runs=1
        )
        > 0.5
    )


# README


def readme_breaches(text, root):
    "Files, make targets and commands that README names and that do not exist."
    out = [
        p
        for p in sorted(
            set(re.findall(r"\b((?:configs|nbs|tests|bench|tools)/[\w./-]+\.\w+)", text))
        )
        if not (root / p).exists()
    ]
    targets = set(re.findall(r"^(\w+):", (root / "Makefile").read_text(encoding="utf-8"), re.M))
    return out + [
        f"make {t}"
        for t in sorted(set(re.findall(r"\bmake ([a-z]+)\b(?=`|\s*$| [A-Z]+=)", text, re.M)))
        if t not in targets
    ]


def test_readme_names_what_exists(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    assert "make run" in text and "make test" in text
    assert readme_breaches(text, root) == []
    assert readme_breaches("`make rnu` with configs/none.yaml", root) == [
        "configs/none.yaml",
        "make rnu",
    ]


def test_readme_is_rendered_from_index(root):
    run = subprocess.run(
        [sys.executable, root / "tools/readme.py", "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_readme_commands_parse(root):
    "Every `xtts-ka` command of README is one that the program knows."
    text = (root / "README.md").read_text(encoding="utf-8")
    words = {m[1] for m in re.finditer(r"\bxtts-ka ([a-z]+)\b", text)}
    text_of_help = subprocess.run(
        [Path(sys.executable).with_name("xtts-ka"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert words and [w for w in sorted(words) if not re.search(rf"\b{w}\b", text_of_help)] == []


# form


def test_files_of_the_repository(root):
    needed = [
        "settings.ini",
        "pyproject.toml",
        "uv.lock",
        ".python-version",
        "environment.yml",
        "LICENSE",
        "Makefile",
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "CITATION.cff",
        ".pre-commit-config.yaml",
        ".github/workflows/ci.yml",
        "xtts_ka/py.typed",
        "configs/demo.yaml",
        "configs/smoke.yaml",
        "outputs/README.md",
        ".ci/run",
        ".gitattributes",
        ".gitconfig",
        "nbs/index.ipynb",
    ]
    assert [n for n in needed if not (root / n).is_file()] == []
    assert os.access(root / ".ci/run", os.X_OK)
    assert (
        (root / "LICENSE")
        .read_text()
        .lstrip()
        .startswith("Apache License\n                           Version 2.0, January 2004")
    )


def test_make_help_lists_the_targets(root):
    if not shutil.which("make"):
        pytest.skip("no make here")
    text = subprocess.run(
        ["make", "help"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert {"run", "test", "lint", "lab", "docs", "bench", "clean"} <= set(
        re.findall(r"make (\w+) ", text)
    ), text
