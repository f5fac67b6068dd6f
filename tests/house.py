"""The rules of the house as functions from a tree to a list of breaches, so that each can be shown
to fail."""

import ast
import configparser
import functools
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

LEVELS = dict(
    core=0,
    text=1,
    corpus=1,
    speaker=2,
    vocoder=2,
    xtts=3,
    sovits=3,
    evaluate=4,
    curate=5,
    pipeline=6,
    speech=7,
)
ALLOWED_SIDEWAYS = {("corpus", "text")}


def modules(root):
    "Generated and hand-written modules of the package, without nbdev's own."
    return sorted(
        p for p in (root / "xtts_ka").rglob("*.py") if p.name not in ("_modidx.py", "__init__.py")
    )


def notebooks(root):
    return sorted(
        p
        for p in (root / "nbs").rglob("*.ipynb")
        if not any(x.startswith(("_", ".")) for x in p.relative_to(root).parts)
    )


@functools.lru_cache(maxsize=1000)
def _sources(notebook, written):  # [(kind, source)] of a notebook's cells, as written at that time
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(c["cell_type"], "".join(c["source"])) for c in found]


def cells(notebook, kind="code"):
    "Sources of a notebook's cells."
    found = _sources(notebook, notebook.stat().st_mtime_ns)
    return [source for of, source in found if of == kind]


def exported_to(notebook):
    "The module a notebook exports to, as a path in the package, or None."
    found = [
        m[1] for c in cells(notebook) if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", c, re.M))
    ]
    return Path(*found[0].split(".")).with_suffix(".py") if found else None


# settings.ini and pyproject.toml say the same
def unequal_settings(root):
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(root / "settings.ini", encoding="utf-8")
    s, p = (
        ini["DEFAULT"],
        tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"],
    )
    scripts = [f"{k}={v}" for k, v in p["scripts"].items()]
    pairs = dict(
        name=(s["lib_name"], p["name"]),
        version=(s["version"], p["version"]),
        description=(s["description"], p["description"]),
        python=(f">={s['min_python']}", p["requires-python"].partition(",")[0]),
        init=(
            s["version"],
            re.search(
                r'__version__ = "(.*)"', (root / "xtts_ka/__init__.py").read_text(encoding="utf-8")
            )[1]
            if (root / "xtts_ka/__init__.py").exists()
            else s["version"],
        ),
        scripts=(s["console_scripts"].split(), scripts),
        pinned=(
            ((root / ".python-version").read_text().strip(), s["min_python"])
            if (root / ".python-version").exists()
            else (1, 1)
        ),
    )
    return [
        f"{k}: settings.ini {a!r}, pyproject.toml {b!r}" for k, (a, b) in pairs.items() if a != b
    ]


# notebooks and package are in step, notebooks are clean
def _tool(name, cwd, *args):
    "An nbdev command in a copied tree; `IN_TEST` would make nbdev_export do nothing."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | dict(PYTHONPATH=str(cwd))
    run = subprocess.run(
        [Path(sys.executable).with_name(name), *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, f"{name} failed:\n{run.stdout}{run.stderr}"


def _bytes(root, folder, pattern):
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in (root / folder).rglob(pattern)
        if "__pycache__" not in p.parts
    }


def out_of_step(copy):
    """Modules that export would change, make or leave without a notebook. Works in `copy`, a tree
    of its own."""
    before = _bytes(copy, "xtts_ka", "*.py")
    homes = {f"xtts_ka/{m.as_posix()}" for n in notebooks(copy) if (m := exported_to(n))}
    orphans = [
        m for m in before if Path(m).name not in ("__init__.py", "_modidx.py") and m not in homes
    ]
    _tool("nbdev_export", copy)
    after = _bytes(copy, "xtts_ka", "*.py")
    changed = sorted(m for m in after if before.get(m) != after[m])
    return [f"{m}: no notebook exports it" for m in orphans] + [
        f"{m}: differs from its notebook; run nbdev_export" for m in changed
    ]


def unclean(copy):
    "Notebooks that nbdev_clean would change. Works in `copy`, a tree of its own."
    before = _bytes(copy, "nbs", "*.ipynb")
    _tool("nbdev_clean", copy)
    return [
        f"{n}: run nbdev_clean" for n, b in _bytes(copy, "nbs", "*.ipynb").items() if before[n] != b
    ]


def misplaced(root):
    "Notebooks that export to a folder other than their own."
    return [
        f"{n.relative_to(root)}: exports to {m}"
        for n in notebooks(root)
        if (m := exported_to(n)) and m.parent != n.parent.relative_to(root / "nbs")
    ]


# imports go down only
def _imports(path, package):
    "Absolute names of the package's modules that a file imports."
    here = path.relative_to(package.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == package.name)
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: -node.level]) if node.level else []
            name = ".".join(base + ([node.module] if node.module else []))
            if name.split(".")[0] == package.name:
                yield from (
                    [f"{name}.{a.name}" for a in node.names] if name == package.name else [name]
                )


def upward_imports(package):
    "Imports that go up or sideways, as `file: imports module`."
    out = []
    for path in sorted(package.rglob("*.py")):
        inner = path.relative_to(package).parts
        if len(inner) < 2:
            continue
        if inner[0] not in LEVELS:
            out.append(
                f"{path.name}: folder {inner[0]} has no place in the house; add it to LEVELS"
            )
            continue
        for name in _imports(path, package):
            to = (name.split(".") + [""])[1]
            fine = (
                to == inner[0]
                or to not in LEVELS
                or LEVELS[to] < LEVELS[inner[0]]
                or (inner[0], to) in ALLOWED_SIDEWAYS
            )
            if not fine:
                out.append(f"{'/'.join(inner)}: imports {name}")
    return out


def import_circles(package):
    "Sets of modules that import each other, functions included."
    graph: dict = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        graph[name.removesuffix(".__init__")] = set(_named_modules(path, package))
    graph = {k: {n for n in v if n in graph and n != k} for k, v in graph.items()}
    left = dict(graph)
    while ends := [k for k, v in left.items() if not v & set(left)]:
        for k in ends:
            del left[k]
    return sorted(k for k in left if any(k in left[n] for n in left))


def _named_modules(path, package):
    "Modules that a file imports, where it names a folder also what it takes from it."
    for name in _imports(path, package):
        yield name
    here = path.relative_to(package.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(here[: -node.level]) if node.level else []
            name = ".".join(base + ([node.module] if node.module else []))
            yield from (f"{name}.{a.name}" for a in node.names)


# functions are short
def function_lengths(paths):
    "`(lines, file:function)` of every function, nested ones and methods included."
    out = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                out.append(
                    (
                        node.end_lineno - node.lineno + 1,
                        f"{path.parent.name}/{path.name}:{node.name}",
                    )
                )
    return sorted(out)


def length_figures(lengths):
    n = [a for a, _ in lengths]
    return dict(
        functions=len(n),
        median=statistics.median(n),
        p90=n[int(0.9 * (len(n) - 1))],
        longest=lengths[-1],
    )


# nothing that could carry code, nothing that hides an error
def forbidden(source, name=""):
    "Calls and imports that the house does not have, as `name:line: what`."
    tree, out = ast.parse(source), []
    for node in ast.walk(tree):
        if (
            what := _imported(node)
            or _called(node)
            or (isinstance(node, ast.ExceptHandler) and node.type is None and "bare except")
        ):
            if not any(node is inner for inner in _copies(tree)):
                out.append(f"{name}:{node.lineno}: {what}")
    return out


_CARRIERS = {"dill", "joblib", "cloudpickle", "shelve"}


def _imported(node):
    """Modules that write or read objects as code. `import pickle` alone is let through: torch.load
    raises its UnpicklingError."""
    if isinstance(node, ast.Import):
        return next(
            (
                a.name
                for a in node.names
                if a.name.split(".")[0] in _CARRIERS or a.name == "pickle" and a.asname
            ),
            "",
        )
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in _CARRIERS | {
        "pickle"
    }:
        return node.module
    return ""


def _called(node):
    "Calls that unpickle, evaluate text, or read audio by FFmpeg's libraries."
    if not isinstance(node, ast.Call):
        return ""
    call, keys = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    if keys.get("weights_only", "True") != "True":
        return f"weights_only={keys['weights_only']}"
    if keys.get("allow_pickle", "False") != "False":
        return f"allow_pickle={keys['allow_pickle']}"
    if (
        call.endswith(".from_pretrained")
        and not call.startswith("nn.")
        and (why := _open_to_code(call, keys))
    ):
        return f"{call}: {why}"
    if call.startswith("pickle.") and not call.endswith("Error"):
        return call
    if call in ("eval", "exec", "yaml.unsafe_load", "torchaudio.load", "torch.hub.load"):
        return call
    safe = any("Safe" in ast.unparse(a) for a in node.args[1:]) or "Safe" in keys.get("Loader", "")
    return call if call in ("yaml.load", "yaml.load_all") and not safe else ""


def _open_to_code(call, keys):
    "A model of transformers: no code that lies beside it, weights from safetensors alone."
    if keys.get("trust_remote_code") != "False":
        return "without trust_remote_code=False"
    has_weights = not any(w in call for w in ("Tokenizer", "FeatureExtractor", "Config"))
    safe = keys.get("use_safetensors") == "True" or "state_dict" in keys
    return "" if safe or not has_weights else "without use_safetensors=True"


def _copies(tree):
    """Both calls of `pickle.loads(pickle.dumps(x))`: a copy in memory, as a data loader's workers
    make it; nothing is stored."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "pickle.loads"
            and ast.unparse(node.args[0]).startswith("pickle.dumps(")
        ):
            yield from (node, node.args[0])


def notebook_source(notebook):
    "All code cells of a notebook that are Python; lines of magics are left out."
    keep = [c for c in cells(notebook) if not c.lstrip().startswith("%%")]
    return "\n".join(re.sub(r"^(\s*)(?:%(?! )|!(?!=)).*", r"\1pass", c, flags=re.M) for c in keep)


# form: width of lines, size of cells, outputs, one floor plan
WIDEST = (
    100  # Characters of a line of code; lines of a table and those with an address may be longer
)


def wide_lines(source, name=""):
    "Lines of code that are too wide, as `name:number`."
    lines = enumerate(source.splitlines(), 1)
    return [f"{name}:{n}" for n, line in lines if len(line) > WIDEST and not exempt(line)]


def exempt(line):
    "Rows of a table, and addresses."
    return bool(re.match(r"\s*[\"']?\|.*\|", line) or re.search(r"https?://\S{40}", line))


def body_lines(notebook):
    "Lines of exported cells without directives, blank lines and indentation."
    lines = "\n".join(exported_cells(notebook)).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#|")]


def exported_cells(notebook):
    return [c for c in cells(notebook) if re.match(r"#\|\s*exports?i?\b", c)]


def cell_sizes(notebook):
    "Lines of each exported cell, directives and blank lines left out."
    sizes = []
    for source in exported_cells(notebook):
        lines = [line for line in source.splitlines() if line.strip()]
        sizes.append(sum(not line.startswith("#|") for line in lines))
    return [size for size in sizes if size]


def quantiles(numbers):
    "Median and 90th percentile."
    ordered = sorted(numbers)
    return statistics.median(ordered), ordered[int(0.9 * (len(ordered) - 1))]


def outputs_of(notebook):
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [output for cell in found for output in cell.get("outputs", [])]


def silent(notebooks):
    "Library notebooks that show nothing."
    return [n.name for n in notebooks if exported_to(n) and not outputs_of(n)]


def illustrated(notebook):
    "Does it show a picture or a player?"
    text = json.dumps(outputs_of(notebook))
    return any(kind in text for kind in ("image/png", "image/svg+xml", "<audio"))


DRAWS = {"subplots", "figure", "Figure", "specgram", "imshow", "semilogy", "bar", "barh", "hist"}
AXES = {axis: {f"{axis}label", f"set_{axis}label", f"sup{axis}label"} for axis in "xy"}


def _words_of(tree):
    "(words, bodies): names, attributes and keywords of a cell; those of a function stand by it."
    words, bodies, queue = set(), {}, list(ast.iter_child_nodes(tree))
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef):
            bodies[node.name] = _words_of(node)[0]
            continue
        if isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg:
            words.add(node.arg)
        queue += ast.iter_child_nodes(node)
    return words, bodies


def bare_plots(notebook):
    "Cells that draw axes and do not name both; helpers of the notebook are followed."
    parsed = []
    for source in cells(notebook):
        try:
            parsed.append(_words_of(ast.parse(re.sub(r"^[%!].*", "pass", source, flags=re.M))))
        except SyntaxError:
            continue
    helpers = {name: words for _, bodies in parsed for name, words in bodies.items()}
    out = []
    for n, (words, _) in enumerate(parsed):
        found, queue = set(words), list(words & helpers.keys())
        while queue:
            new = helpers[queue.pop()] - found
            found |= new
            queue += new & helpers.keys()
        named = all(found & AXES[axis] for axis in "xy") or found & {"set_axis_off", "pairplot"}
        if found & DRAWS and found & {"plt", "axes", "ax"} and not named:
            out.append(f"{notebook.name}: code cell {n}")
    return out


FLOOR_PLAN = re.compile(r"<!-- floor plan.*?-->(.*?)<!-- end of floor plan -->", re.S)


def floor_plan(text):
    "Family -> role -> modules, from the table of ARCHITECTURE.md."
    rows = [line for line in FLOOR_PLAN.search(text)[1].splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    families = [re.sub("`", "", f) for f in table[0][1:]]
    return {
        family: {row[0]: re.findall(r"`(\w+)`", row[k]) for row in table[2:]}
        for k, family in enumerate(families, 1)
    }


def rooms_missing(plan, package):
    "Modules that the floor plan names and the package lacks."
    named = [(f, m) for f, roles in plan.items() for ms in roles.values() for m in ms]
    return [f"{f}/{m}" for f, m in named if not (package / f / f"{m}.py").is_file()]


# an output tree holds nothing that could carry code
def walk_outputs(tree):
    "Files below `tree` that are pickles or do not load with `weights_only=True`, as `path: why`."
    import numpy as np

    out = []
    for path in sorted(Path(tree).rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(tree).as_posix()
        if path.suffix in (".pkl", ".pickle", ".joblib", ".dill"):
            out.append(f"{name}: a pickle")
        elif path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
            if why := _unsafe(path):
                out.append(f"{name}: {why}")
        elif path.suffix in (".npy", ".npz"):
            try:
                list(
                    np.load(path, allow_pickle=False).values()
                    if path.suffix == ".npz"
                    else [np.load(path, mmap_mode="r", allow_pickle=False)]
                )
            except (ValueError, OSError) as e:
                out.append(f"{name}: {e}")
    return out


def _unsafe(path):
    "Why a checkpoint does not load with `weights_only=True`, or ''."
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as e:
        return f"{type(e).__name__}: {str(e).splitlines()[0]}"  # whatever it is, it did not load
    return ""
