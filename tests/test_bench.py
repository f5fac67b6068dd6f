"""Promises and targets of `make bench`: what is red, what is amber, what the exit code says; and
one thread a worker in `make test`."""

import json
import os
import subprocess
import sys

import pytest

THREADS = """import os, torch
names = [f"{n}_NUM_THREADS" for n in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON")]
assert [os.environ.get(n) for n in names] == ["1"] * 5, os.environ
assert torch.get_num_threads() == 1"""


@pytest.fixture
def bench(root, monkeypatch, tmp_path):
    "The modules of bench/, which write their record into a folder of the test."
    monkeypatch.syspath_prepend(root / "bench")
    import compare
    import targets

    monkeypatch.setattr(compare, "ROOT", tmp_path)
    monkeypatch.setattr(compare, "commit", lambda name="": dict(commit="none", changed=False))
    return compare, targets


def measure(bench, monkeypatch, tmp_path, ours, promise, target, held="its loop"):
    "Exit code, and the record of one row that takes `ours` seconds where its peer takes one."
    compare, targets = bench
    monkeypatch.setitem(targets.TARGETS, "row", {"peer": target})
    monkeypatch.setitem(targets.HELD_BY, "row", held)
    monkeypatch.setattr(sys, "argv", ["run.py", "--rounds", "1"])
    row = compare.Row("a row", lambda: ours, {"peer": lambda: 1.0}, {"peer": promise})
    with pytest.raises(SystemExit) as end:
        compare.main({"row": lambda: row})
    found = next((tmp_path / "bench/results").glob("*.json"))
    return int(end.value.code), json.loads(found.read_text(encoding="utf-8"))["rows"][0]


def test_a_broken_promise_fails(bench, monkeypatch, tmp_path, capsys):
    code, record = measure(bench, monkeypatch, tmp_path, 2.0, 1.6, 0.5)
    said = capsys.readouterr().out
    assert code == 1 and not record["kept"]
    assert record["broken"] == {"peer": 1.25}
    assert "promised: at most 1.6, MISSED by 25%" in said


def test_a_target_that_is_not_reached_is_told_with_what_holds_it(
    bench, monkeypatch, tmp_path, capsys
):
    code, record = measure(bench, monkeypatch, tmp_path, 0.75, 1.6, 0.5)
    said = capsys.readouterr().out
    assert code == 0 and record["kept"] and not record["reached"]
    assert record["missed"] == {"peer": 1.5} and record["held_by"] == "its loop"
    assert "target: at most 0.5, MISSED by 50%" in said and "held by: its loop" in said
    assert "target not reached: row, 0.75 of peer, 1.5 times what it should be: its loop" in said


def test_a_reached_target_has_no_excuse(bench, monkeypatch, tmp_path, capsys):
    code, record = measure(bench, monkeypatch, tmp_path, 0.4, 1.6, 0.5)
    assert code == 0 and record["reached"] and not record["held_by"]
    assert "MISSED" not in capsys.readouterr().out


def test_what_is_for_bfloat16_is_bound_to_nothing_without(bench, monkeypatch, tmp_path, capsys):
    compare, targets = bench
    monkeypatch.setattr(compare, "WITH_BFLOAT16", {"row"})
    for has, code in ((True, 1), (False, 0)):
        monkeypatch.setattr(compare, "multiplies_bfloat16", lambda has=has: has)
        monkeypatch.setattr(compare, "ROOT", tmp_path / str(has))
        found, record = measure(bench, monkeypatch, tmp_path / str(has), 2.0, 1.6, 0.5)
        assert found == code == int(not record["kept"]) and record["reached"] is not has
        assert (compare.EMULATED in capsys.readouterr().out) is not has


def test_a_promise_of_its_own_without_tiles(bench, monkeypatch, tmp_path, capsys):
    compare, targets = bench
    monkeypatch.setattr(compare, "WITHOUT_AMX", {"row": {"peer": 2.1}})
    for tiles, code in ((True, 1), (False, 0)):
        monkeypatch.setattr(compare, "multiplies_by_tiles", lambda tiles=tiles: tiles)
        monkeypatch.setattr(compare, "ROOT", tmp_path / str(tiles))
        found, record = measure(bench, monkeypatch, tmp_path / str(tiles), 2.0, 1.6, 0.5)
        assert found == code and not record["reached"]
        assert record["promises"]["peer"] == (1.6 if tiles else 2.1)


def test_minutes_of_a_recorded_run(bench, monkeypatch, tmp_path):
    "Two stages at a time count once on the clock, and a pause between them does not."
    import records

    at = [f"2026-01-01T00:{m:02}:00+00:00" for m in (0, 10, 5, 12, 30, 33)]
    stages = {
        name: dict(status="done", cpu_seconds=60.0, started=at[2 * i], ended=at[2 * i + 1])
        for i, name in enumerate("abc")
    }
    progress = json.dumps(dict(stages=stages))
    (tmp_path / "pretrain_progress.json").write_text(progress, encoding="utf-8")
    monkeypatch.setattr(records, "stages", lambda found=records.stages: found(tmp_path))
    assert (records.run_cpu().ours(), records.run_wall().ours()) == (3.0, 15.0)


def test_each_target_has_a_row_and_a_sentence(root):
    "In a process of its own, which needs no peer: rows are made when they are measured."
    call = (
        "import json, run, targets as t; print(json.dumps([list(run.ROWS), t.TARGETS, t.HELD_BY]))"
    )
    env = dict(os.environ, PYTHONPATH=f"{root}{os.pathsep}{root / 'bench'}")
    done = subprocess.run([sys.executable, "-c", call], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, targets, held = json.loads(done.stdout)
    assert set(targets) <= set(rows), "a target of no row"
    assert set(held) <= set(targets), "a sentence without a target"
    assert all(s.endswith(".") and len(s) > 40 for s in held.values())


def test_the_results_page_explains_what_is_missed(root):
    rows = json.loads((root / "nbs/results/bench.json").read_text(encoding="utf-8"))["rows"]
    missed = [r for r in rows if r.get("missed")]
    assert all({"promises", "targets", "held_by"} <= set(r) for r in rows if "lacks" not in r)
    assert not [r["row"] for r in missed if not r["held_by"]]
    shown = (root / "nbs/results.ipynb").read_text(encoding="utf-8")
    assert all(r["held_by"].split("`")[0][:30] in shown for r in missed)


def test_a_worker_of_pytest_has_one_thread():
    "A process of its own: other tests of this worker set torch's threads."
    subprocess.run([sys.executable, "-c", THREADS], check=True)


def test_normalising_loads_no_heavy_library(root):
    "What a cold `xtts-ka normalize` takes is what it imports."
    call = "import sys; from xtts_ka.text.normalize import normalize; normalize('5 კაცი 2 ლარით');"
    call += "print(sorted({'pydantic', 'yaml', 'numpy', 'torch'} & set(sys.modules)))"
    env = dict(os.environ, PYTHONPATH=str(root))
    done = subprocess.run([sys.executable, "-c", call], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
