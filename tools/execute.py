"""Run library notebooks and keep what their cells show, so that GitHub and the docs show it too.

python tools/execute.py                          all notebooks but nbs/runs (their outputs belong to
a run)
    python tools/execute.py nbs/core/audio.ipynb     some of them

Kept is what stays the same from one execution to the next: warnings, counters, widgets, timings,
addresses and paths of this machine are left out."""

import base64
import io
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

import lean  # noqa: F401
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from nbdev.config import get_config

ROOT = Path(__file__).resolve().parents[1]
LONGEST, HEAVIEST = 6_000, 160_000  # Characters of a text, of a picture in base64
RICH = ("text/html", "text/markdown", "image/png", "image/svg+xml", "text/latex")
VOLATILE = (
    (re.compile(r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:\+00:00|Z)?"), "…"),  # moments
    (re.compile(r"\b0x[0-9a-f]{6,16}\b"), "0x…"),  # addresses of objects
    (re.compile(r"(\bpid\W{1,4})\d+"), r"\1…"),
    (re.compile(r"(\bhost\W{1,4})" + re.escape(platform.node()) + r"\b"), r"\1…"),
    (re.compile(r"\b\d[\d.]*(?:e[-+]\d+)?(?=(?:it)?/s\b)"), "…"),  # rates of bars
    (re.compile(r"\b((?:cpu_)?seconds=)\d[\d.e+-]*"), r"\1…"),
)  # in FitResult and Outcome
CLOCK = re.compile(
    r"\b(process_time|perf_counter|monotonic|thread_time|time\.time|seconds_of)\w*\("
)
TIMING = re.compile(
    r"(?<![\w.:])\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?=\s?(?:s|ms|µs|us|ns|min|seconds?|minutes?|times"
    r" faster)\b)"
)


def skipped(source):
    return bool(
        re.search(r"^#\|\s*(notest|gpu|net|eval:\s*false)\b", source, re.M)
    )  # As nbdev_test does (tst_flags)


def neutral(text):
    "A text without colours and without paths of this machine."
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    text = re.sub(rf"(?:{re.escape(tempfile.gettempdir())}/)?\btmp[a-z0-9_]{{8}}\b", "TMP", text)
    for place, name in ((str(ROOT), "."), (sys.prefix, "ENV"), (str(Path.home()), "~")):
        text = re.sub(re.escape(place) + r"(?![\w.-])", name, text)
    return text


def steady(text, source):
    "A text without what changes from run to run; timings go where the cell reads a clock."
    text = neutral(text)
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return TIMING.sub("…", text) if CLOCK.search(source) else text


def cut(text):
    return (
        text
        if len(text) <= LONGEST
        else text[:LONGEST].rsplit("\n", 1)[0]
        + f"\n[… {len(text) - LONGEST:,} further characters]\n"
    )


def light(png):
    "A picture in base64 with 128 colours, which plots do not miss, where that is smaller."
    from PIL import Image

    small = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(
        128, dither=Image.Dither.NONE
    ).save(small, "PNG", optimize=True)
    return min(png.rstrip(), base64.b64encode(small.getvalue()).decode(), key=len)


def bundle(data, source, notes):
    "The forms of one displayed object that are kept."
    kept = {
        k: steady(v, source) if k.startswith("text/") and "base64," not in v else v
        for k, v in data.items()
        if isinstance(v, str) and k in (*RICH, "text/plain")
    }
    if "image/png" in kept:
        kept["image/png"] = light(kept["image/png"])
    if heavy := [k for k, v in kept.items() if len(v) > HEAVIEST]:
        notes.append(
            f"{', '.join(heavy)} of {max(len(kept[k]) for k in heavy):,} characters left out"
        )
        kept = {k: v for k, v in kept.items() if k not in heavy}
    if any(k in kept for k in RICH):
        kept.pop("text/plain", None)
    if "text/plain" in kept:
        kept["text/plain"] = cut(kept["text/plain"])
    return kept


def cleaned(outputs, source, notes):
    "What is kept of a cell's outputs."
    out = []
    for o in outputs:
        if o.output_type == "stream":
            if o.name != "stdout" or not o.text.strip():
                continue  # stderr: warnings and bars
            if out and out[-1].output_type == "stream":
                out[-1].text += o.text
            else:
                out.append(nbformat.v4.new_output("stream", text=o.text))
        elif "application/vnd.jupyter.widget-view+json" not in o.data and (
            data := bundle(o.data, source, notes)
        ):
            out.append(nbformat.v4.new_output(o.output_type, data=data, metadata={}))
    for o in out:
        if o.output_type == "stream":
            o.text = cut(steady(re.sub(r"^.*\r(?!\n)", "", o.text, flags=re.M), source))
    return out


def kernel_env():
    "The kernel's environment: two threads, plain progress, the house's fonts and no display."
    return os.environ | dict(
        OMP_NUM_THREADS="2",
        XTTS_KA_PROGRESS="off",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        IN_TEST="1",
        PYTHONHASHSEED="0",
    )


def run(nb):
    "Execute a notebook from the repository's root, all cells or until the first failure."
    nb.metadata["kernelspec"] = dict(name="python3", display_name="python3", language="python")
    client = NotebookClient(
        nb,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT)}},
    )
    client.km = client.create_kernel_manager()
    # as the pipeline does: other users of the machine could read what kernel and client say
    client.km.transport_encryption = "auto"
    with client.setup_kernel(env=kernel_env(), cwd=str(ROOT)):
        for i, cell in enumerate(nb.cells):
            if cell.cell_type == "code" and not skipped(cell.source):
                client.execute_cell(cell, i)


def saved(nb):
    "A notebook as nbdev writes a clean one."
    plain, cfg = json.loads(nbformat.writes(nb)), get_config()
    clean_nb(
        plain,
        False,
        cfg.get("allowed_metadata_keys").split(),
        cfg.get("allowed_cell_metadata_keys").split(),
        cfg.clean_ids,
    )
    return json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def execute(path):
    """Execute one notebook in place; returns notes on what was left out. When a cell fails, the
    file stays as it was."""
    nb, notes = nbformat.read(path, as_version=4), []
    try:
        run(nb)
    except CellExecutionError as e:
        sys.exit(f"{path}: a cell failed, the file is left as it was\n{str(e)[-3000:]}")
    for cell in (c for c in nb.cells if c.cell_type == "code"):
        cell.outputs, cell.execution_count = cleaned(cell.outputs, cell.source, notes), None
    nb.metadata.pop("widgets", None)
    path.write_text(saved(nb), encoding="utf-8")
    return notes


def main(args):
    if {"-h", "--help"} & set(args):
        print(__doc__)
        return
    if lost := [a for a in args if not (Path(a).is_file() and a.endswith(".ipynb"))]:
        sys.exit(f"{lost[0]}: no such notebook; give .ipynb files, or none for all")
    paths = [Path(a).resolve() for a in args] or sorted(
        p
        for p in (ROOT / "nbs").rglob("*.ipynb")
        if not any(x[0] in "._" for x in p.relative_to(ROOT).parts)
        and "runs" not in p.relative_to(ROOT).parts
        and p.name != "index.ipynb"
    )
    for path in paths:
        start, before = time.monotonic(), path.read_bytes()
        notes = execute(path)
        change = "as before" if path.read_bytes() == before else "changed"
        print(
            f"{path.relative_to(ROOT)}: {change}, {path.stat().st_size / 1000:.0f} kB,"
            f" {time.monotonic() - start:.0f} s",
            *notes,
            sep="; ",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
