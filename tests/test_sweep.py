"""A sweep from the command line, on a copy of the sources: shared stages once, runs at the same time, a page that compares; and the page of all runs in a browser."""
import csv, json, os, re
from pathlib import Path

import pytest

from browser import Browser, chromium
from smoke import Home

TINY = ("corpus.own=6", "corpus.recombined=24", "corpus.held_out=4", "segments.val_fraction=0.1", "threads=1", "jobs=1")

@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    "Four runs of corpus and segments: a value of each is swept, so that one stage is shared by pairs and by none by all."
    home = Home(tmp_path_factory.mktemp("sweep"))
    home.first = home.call("sweep", "--config", "configs/smoke.yaml", "--to", "segments", "--jobs", "2", "segments.level_db=-23,-20", *TINY)
    return home

def record(home, name): return json.loads((home.root/"outputs"/name/"pretrain_progress.json").read_text())["stages"]

def test_shared_stages_are_made_once_and_the_rest_apart(swept):
    assert swept.first.returncode == 0, swept.first.stdout + swept.first.stderr
    a, b = (record(swept, f"smoke-level_db--{v}") for v in (23, 20))
    assert "made once: corpus" in swept.first.stdout and a["corpus"] == b["corpus"] and a["segments"]["outputs"] != b["segments"]["outputs"]
    one, two = (swept.root/f"outputs/smoke-level_db--{v}/corpus/metadata.csv" for v in (23, 20))
    assert one.stat().st_ino == two.stat().st_ino # Links: the corpus takes its space once
    assert swept.first.stdout.count("▶ smoke-level_db-") == swept.first.stdout.count("✓ smoke-level_db-") == 2
    rows = list(csv.DictReader(open(swept.root/"outputs/sweep-level_db.csv", encoding="utf-8")))
    assert [(r["segments.level_db"], r["corpus: clips"], r["status"]) for r in rows] == [("-23", rows[0]["corpus: clips"], "done"), ("-20", rows[0]["corpus: clips"], "done")]

def test_the_same_command_goes_on(swept):
    again = swept.call("sweep", "--config", "configs/smoke.yaml", "--to", "segments", "--jobs", "2", "segments.level_db=-23,-20", *TINY)
    assert again.returncode == 0 and "up to date" in again.stdout + (swept.root/"outputs/smoke-level_db--20/sweep.log").read_text()

def test_a_run_that_fails_is_named_and_the_other_ends(swept):
    bad = swept.call("sweep", "--config", "configs/smoke.yaml", "--to", "segments", "segments.min_seconds=0.5,11.9", *TINY)
    assert bad.returncode == 1 and re.search(r"✗ smoke-min_seconds-11.9.*exit status", bad.stdout), bad.stdout + bad.stderr
    assert record(swept, "smoke-min_seconds-0.5")["segments"]["status"] == "done"

@pytest.mark.parametrize("words, why", [(["seed=1"], "no key has several values"), (["sede=1,2"], "did you mean `seed`"), (["corpus.voices=2,[x"], "corpus.voices")])
def test_wrong_calls(swept, words, why):
    found = swept.call("sweep", "--config", "configs/smoke.yaml", *words)
    assert found.returncode == 2 and why in found.stderr and "Traceback" not in found.stderr, found.stderr

@pytest.mark.skipif(not chromium(), reason="no Chromium here")
def test_the_page_compares_in_a_browser(swept, tmp_path):
    "Boxes are ticked with the mouse's event; what differs is shown; a name is text; nothing is asked for from outside."
    from xtts_ka.pipeline.state import Progress
    evil = swept.root/"outputs/evil"
    Progress(evil).update("corpus", status="failed", started="2026-01-01T00:00:00+00:00", error="<script>window.broken = 1</script>", metrics={"<img src=x onerror='window.broken = 1'>": "<b>bold</b>"})
    (evil/"config.yaml").write_text("run: evil\nsegments:\n  level_db: '<i>x</i>'\n")
    assert swept.call("index").returncode == 0
    with Browser() as b:
        b.open(swept.root/"outputs/index.html", "data.runs.length > 2")
        tick = lambda name: b.run(f"[...document.querySelectorAll('#runs input')].find(i => i.value === '{name}').click()")
        shown = lambda id: b.run(f"document.getElementById('{id}').textContent")
        for name in ("smoke-level_db--23", "smoke-level_db--20", "evil"): tick(name)
        assert all(w in shown("parameters") for w in ("segments.level_db", "-20", "<i>x</i>", "corpus.own")) and "corpus: clips" in shown("metrics") and "<b>bold</b>" in shown("metrics")
        assert b.run("window.broken === undefined && document.querySelectorAll('img, i, b').length === 0") and "evil" in b.run("location.hash")
        tick("evil")
        assert "<i>x</i>" not in shown("parameters") and "evil" not in b.run("location.hash")
        assert b.run("document.getElementById('parameters').rows.length") == 2 # The head, and the one that differs
        b.run("document.getElementById('all').click()")
        assert b.run("document.getElementById('parameters').rows.length") > 20
        b.shot(tmp_path/"runs.png", True)
        assert b.asked == [] and b.errors == []
