"""The tools behind README and the docs: figures come from a run, outputs from an execution, pages
from notebooks, and none of them by hand."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import docs
import execute
import figures

# figures


@pytest.fixture
def kept():
    return json.loads(figures.KEPT.read_text(encoding="utf-8"))


def test_readme_shows_the_figures_of_the_run(root, kept):
    """Table and picture of README are those of nbs/results/demo.json; figures that miss what is
    asked for say so."""
    text = (root / "README.md").read_text(encoding="utf-8")
    assert all(line in text for line in figures.readme_lines(kept))
    assert figures.table(kept) in figures.GUIDE.read_text(encoding="utf-8")
    run = subprocess.run(
        [sys.executable, root / "tools/figures.py", "--check"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    picture = root / "nbs/images/report.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size < 300_000


def made_run(folder, kept, **status):
    "A run's folder as the pipeline leaves it, with the metrics of `kept`."
    stages = {
        n: {
            "status": status.get(n, "stale" if n in kept["changed_since"] else "done"),
            "seconds": s["seconds"],
            "cpu_seconds": s["cpu_seconds"],
            "packages": {"processor": kept["processor"]},
            "started": "2026-01-01T00:00:00+00:00",
            "ended": datetime.fromtimestamp(1767225600 + kept["wall_seconds"], UTC).isoformat(),
        }
        for n, s in kept["stages"].items()
    }
    for n, s in kept["stages"].items():
        (folder / n).mkdir(parents=True)
        (folder / n / "metrics.json").write_text(json.dumps(s["metrics"]), encoding="utf-8")
    (folder / "pretrain_progress.json").write_text(
        json.dumps({"schema": 1, "stages": stages}), encoding="utf-8"
    )
    (folder / "config.yaml").write_text(
        "".join(f"{k}: {kept[k]}\n" for k in ("run", "seed", "threads", "jobs")), encoding="utf-8"
    )
    return folder


def test_figures_are_taken_from_finished_runs_only(tmp_path, kept):
    assert figures.take(made_run(tmp_path / "whole", kept)) == kept
    older = figures.take(made_run(tmp_path / "older", kept, corpus="stale"))
    assert "corpus" in older["changed_since"] and "have changed since: corpus" in figures.table(
        older
    )
    with pytest.raises(SystemExit, match=r"not finished \(evaluate\)"):
        figures.take(made_run(tmp_path / "failed", kept, evaluate="failed"))
    with pytest.raises(SystemExit, match="no run lies there"):
        figures.take(tmp_path)


def test_every_figure_is_measured_and_a_missed_one_is_marked(kept):
    lacks = [f.key for f in figures.SHOWN if f.key not in kept["stages"][f.stage]["metrics"]]
    optional = [
        k
        for k in lacks
        if k.startswith(("everyday complete", "everyday MOS"))
        or k.startswith("everyday")
        and k.endswith("by the vocoder")
    ]  # Older models, no package, one way only
    spoke = "everyday texts" in kept["stages"]["evaluate"]["metrics"]
    assert lacks == optional or not spoke and all(k.startswith("everyday") for k in lacks)
    good = kept["stages"]["evaluate"]["metrics"] | {
        "nearest to its own recording": "18 of 20",
        "stopped by itself": "19 of 20",
        "mean length ratio": 1.2,
    }
    for key, bad in {
        "nearest to its own recording": "17 of 20",
        "stopped by itself": "18 of 20",
        "mean length ratio": 1.21,
    }.items():
        lines = {}
        for name, metrics in {"good": good, "bad": good | {key: bad}}.items():
            table = figures.results({"stages": kept["stages"] | {"evaluate": {"metrics": metrics}}})
            lines[name] = [line for line in table.splitlines() if "missed" in line]
        assert len(lines["bad"]) == len(lines["good"]) + 1


DAILY = {
    "everyday texts": 150,
    "everyday texts with an unseen word": "116 of 150",
    "everyday CER, recording": 0.1,
    "everyday CER interval, recording": "0.090 to 0.110",
    "everyday MOS, recording": 2.6,
    "everyday CER, XTTS": 0.2,
    "everyday CER interval, XTTS": "0.180 to 0.220",
    "everyday stopped, XTTS": "149 of 150",
    "everyday worst kind, XTTS": "word, 24.0%",
    "everyday MOS, XTTS": 2.4,
    "everyday likeness, XTTS": 0.88,
    "everyday likeness by Resemblyzer, XTTS": 0.76,
    "everyday CER, sovits2": 0.11,
    "everyday CER interval, sovits2": "0.090 to 0.130",
    "everyday stopped, sovits2": "150 of 150",
    "everyday worst kind, sovits2": "list, 26.0%",
    "everyday length in range, sovits2": "143 of 150",
}


def test_everyday_texts_come_first_where_they_were_spoken(kept):
    own = {
        k: v
        for k, v in kept["stages"]["evaluate"]["metrics"].items()
        if not k.startswith("everyday")
    }

    def run(metrics):
        return kept | {
            "stages": (
                kept["stages"] | {"evaluate": kept["stages"]["evaluate"] | {"metrics": metrics}}
            )
        }

    first = figures.headline(run(DAILY | own)).splitlines()
    with pytest.raises(SystemExit, match="no everyday texts"):
        figures.headline(run(own))
    assert "150 texts as people type them" in first[1] and "116 with a word" in first[1]
    rows = {line.split("|")[1].strip(): line for line in first if line.startswith("| ")}
    assert "| 11.0 % (9 to 13 %) | 150 of 150 |" in rows["GPT-SoVITS2"]
    assert "| 20.0 % (18 to 22 %) | 149 of 150 | 0.76 | 2.40 |" in rows["XTTS with its own decoder"]
    assert "| 10.0 % (9 to 11 %) |  |" in rows["recordings"]
    nothing = figures.listen(run(DAILY | own | {"everyday likeness by Resemblyzer, XTTS": 0.0}))
    assert "| 149 of 150 | 0.00 | 2.40 |" in nothing  # a likeness of 0 is a figure
    lines = figures.results(run(DAILY | own)).splitlines()[2:]
    assert lines[0].startswith("| **Everyday texts") and "Everyday" not in figures.results(run(own))
    missed = {line.split("|")[2].strip() for line in lines if "missed" in line}
    assert {"20.0%", "149 of 150", "list, 26.0%"} <= missed and not {
        "11.0%",
        "word, 24.0%",
        "143 of 150",
        "2.40",
    } & missed


def test_only_the_block_is_exchanged(kept):
    text = f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter"
    assert figures.replaced(text, figures.table(kept)) == f"before\n{figures.table(kept)}\nafter"
    with pytest.raises(SystemExit):
        figures.replaced("no marks here", "x")


# saved outputs

NOISE = """import sys, time, tempfile
from pathlib import Path
from IPython.display import display, HTML
print("a warning", file=sys.stderr)
print(f"took {time.process_time() + 1:.3f} s in", tempfile.mkdtemp(), "of", Path.cwd(), object())
display(HTML("<b>რვა</b>"))
len("გამარჯობა")"""


def outputs(path):
    return [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]


def test_a_second_execution_changes_nothing(tmp_path):
    path = tmp_path / "noisy.ipynb"
    nbformat.write(
        new_notebook(
            cells=[
                new_markdown_cell("# noisy"),
                new_code_cell(NOISE),
                new_code_cell("#| notest\n1/0"),
            ]
        ),
        path,
    )
    execute.execute(path)
    first = path.read_bytes()
    execute.execute(path)
    assert path.read_bytes() == first
    text, html, value = outputs(path)
    assert text.text.startswith("took … s in TMP of . <object object at 0x…>")
    assert (
        html.data == {"text/html": "<b>რვა</b>"}
        and value.data == {"text/plain": "9"}
        and value.execution_count is None
    )


def test_a_failing_cell_leaves_the_file_alone(tmp_path):
    path = tmp_path / "bad.ipynb"
    nbformat.write(
        new_notebook(
            cells=[new_code_cell("print(1)"), new_code_cell("assert 1 == 2, 'not equal'")]
        ),
        path,
    )
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="(?s)a cell failed.*not equal"):
        execute.execute(path)
    assert path.read_bytes() == before


def test_what_is_kept_of_outputs():
    notes, heavy = [], "x" * (execute.HEAVIEST + 1)
    found = [
        new_output(
            "display_data",
            data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Bar()"},
        ),
        new_output("display_data", data={"text/html": heavy, "text/plain": "short"}),
        new_output("stream", name="stderr", text="warning"),
        new_output("stream", text="\x1b[31mred\x1b[0m "),
        new_output("stream", text="0.5 s, max_seconds=12.0, seconds=0.31\n" * 1000),
    ]
    kept = execute.cleaned(found, "print(1)", notes)
    assert (
        [o.output_type for o in kept] == ["display_data", "stream"]
        and kept[0].data == {"text/plain": "short"}
        and len(notes) == 1
    )
    assert (
        kept[1].text.startswith("red 0.5 s, max_seconds=12.0, seconds=…\n")
        and len(kept[1].text) < execute.LONGEST + 60
    )
    timed = execute.cleaned(
        [new_output("stream", text="3 files in 0.5 s, 12.5 ms each")], "time.perf_counter()", notes
    )
    assert timed[0].text == "3 files in … s, … ms each"


# pages


def test_pages_keep_prose_and_show_methods(root):
    page = Path("core/manifest.ipynb")
    cells = [c.source for c in docs.page_cells(root / "nbs" / page, page)]
    first = next(
        c.source for c in nbformat.read(root / "nbs" / page, 4).cells if c.cell_type == "markdown"
    )
    assert cells[0] == first.strip()
    api = "\n".join(cells)
    assert (
        "### `read_manifest`" in api
        and "max_seconds:float=600.0, # Longest recording accepted" in api
    )
    assert (
        "#### `Manifest.audio_path`" in api and "class Manifest(" in api and "NoneType" not in api
    )


def test_links_stay_on_the_site(root):
    page, here = Path("core/audio.ipynb"), root / "nbs/core"

    def relinked(text):
        return docs.relinked(text, page, here)

    assert (
        relinked("[a](../runs/10_corpus.ipynb#x) [b](#c) [d](https://e.ge)")
        == "[a](../runs/10_corpus.ipynb#x) [b](#c) [d](https://e.ge)"
    )
    assert (
        relinked("[a](../../outputs/README.md) ![p](../images/report.png)")
        == "a ![p](../images/report.png)"
    )
    site = docs.get_config()
    assert (
        relinked(f"[f]({site.doc_host}{site.doc_baseurl}/core/files.html#Sha)")
        == "[f](../core/files.ipynb#sha)"
    )


def test_addresses_outside_are_found(tmp_path):
    (tmp_path / "good.html").write_text(
        '<script src="_static/a.js"></script><a href="https://nbdev.fast.ai">nbdev</a>'
    )
    assert docs.outside(tmp_path) == []
    for name, text in {
        "a.html": '<script src="https://x.org/a.js">',
        "b.css": '@import url("//x.org/a.css");',
        "c.html": '<link rel="stylesheet" href="http://x.org/a.css">',
    }.items():
        (tmp_path / name).write_text(text)
    assert docs.outside(tmp_path) == ["a.html", "b.css", "c.html"]


def test_notebooks_for_lent_machines_say_what_each_cell_took(root):
    "tools/colab.py wrote it: a row for every cell that runs, from a run of these cells."
    for path in sorted((root / "colab").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert cells[-1]["id"] == "took", path
        rows = re.findall(r"^\| (.+) \| (\d+) s \|$", "".join(cells[-1]["source"]), re.M)
        wanted, heading = [], "Settings"
        for cell in cells[:-1]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                heading = (re.findall(r"^## (.+)$", source, re.M) or [heading])[-1]
            else:
                wanted.append(heading)
        assert [name for name, _ in rows] == wanted, path
