"""Earlier outputs of a stage: what takes their place, when they come back, links in their stead."""

import os

import pytest
from test_runner import shelf, toys  # noqa: F401 fixtures

from xtts_ka.core.files import fresh_dir


def test_an_attempt_that_fails_never_costs_a_finished_stage(toys, capsys):
    assert toys.run(to="first") == 0 and toys.ran() == ["first"]
    (toys.dir / "first/weights").write_text("a night")
    state = toys.state()["first"]
    from xtts_ka.core.files import tree_digest
    from xtts_ka.pipeline.state import Progress

    made = {"first": tree_digest(toys.dir / "first")}
    Progress(toys.dir).update("first", outputs=made)
    for _ in range(2):  # A mistyped parameter, and the same with another one
        assert toys.run("first.mode=bad", f"first.n={7 + _}", to="first") == 1
    said = capsys.readouterr().out
    assert "are kept in outputs/t/.old\n" in said and "outputs/t/.old/unfinished\n" in said
    assert (toys.dir / ".old/first/weights").read_text() == "a night"
    assert toys.ran() == ["first", "first"]
    assert toys.run(to="first", dry_run=True) == 0
    assert "1/3 first  would be taken back" in capsys.readouterr().out
    assert toys.run(to="first") == 0 and toys.ran() == []
    assert "taken back from outputs/t/.old" in capsys.readouterr().out
    assert (toys.dir / "first/weights").read_text() == "a night"
    again = toys.state()["first"]
    assert again["status"] == "done" and again["started"] == state["started"]
    assert (toys.dir / "notebooks/10_first.ipynb").read_text().count("no luck") == 1  # the source


def test_what_stands_aside_returns_only_whole_and_only_where_it_is_wanted(toys):
    from toy_stages import TOYS

    from xtts_ka.pipeline import kept, runner
    from xtts_ka.pipeline.stages import load_run

    toys.finish()
    run = runner.Run(load_run(toys.root / "c.yaml", [], TOYS), TOYS)
    first, parts = TOYS[0], run.progress["first"].fingerprint_parts
    kept.set_aside(run, first)
    assert kept.returnable(run, first, parts | {"code": "another"}) is None
    held = toys.dir / ".old/first/out.json"
    text = held.read_text()
    held.write_text("8")
    assert kept.returnable(run, first, parts) is None
    held.write_text(text)
    assert kept.take_back(run, first, parts) and not runner.stage_status(run, first).reason
    (toys.dir / "first").rename(toys.dir / "elsewhere")
    (toys.dir / "first").symlink_to("elsewhere")
    for _ in range(3):  # A stage's folder that is a link
        kept.set_aside(run, first)
        (toys.dir / "first").symlink_to("elsewhere")
    assert (toys.dir / "elsewhere/out.json").read_text() == text


def test_a_folder_that_is_a_link_is_replaced_where_it_lies(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "report").symlink_to(disk)
    (tmp_path / "fresh").symlink_to("not-there-yet")
    for name in ("report", "fresh"):
        for text in "ab":
            with fresh_dir(tmp_path / name) as new:
                (new / "page").write_text(text)
        assert (tmp_path / name).is_symlink() and (tmp_path / name / "page").read_text() == "b"
    assert sorted(os.listdir(tmp_path)) == ["disk", "fresh", "not-there-yet", "report"]


@pytest.mark.parametrize("name", ["{run}", "a{b", "{}"])
def test_braces_in_the_path_of_the_repository(tmp_path, name):
    from test_runner import write_notebook

    from xtts_ka.pipeline.execute import execute

    notebook = write_notebook(tmp_path / name, "10_first", ("n = 1",))
    with pytest.raises(FileNotFoundError, match="no such folder"):  # Found and read before that
        execute(notebook, tmp_path / name / "out.ipynb", {"n": 2}, tmp_path / "no such folder")


def lent(toys, monkeypatch, disturb):
    "Run `t` lends `first` to run `u`; after the second file, `disturb` is called."
    from toy_stages import TOYS

    from xtts_ka.pipeline import runner, sweep
    from xtts_ka.pipeline.stages import load_run
    from xtts_ka.pipeline.state import Progress

    toys.finish()
    for i in range(20):
        (toys.dir / "first" / f"{i:02}").mkdir()
        (toys.dir / "first" / f"{i:02}" / "clip.wav").write_text("x")
    trials = [
        sweep.SweepRun(n, {}, [], load_run(toys.root / "c.yaml", [f"run={n}"], TOYS)) for n in "tu"
    ]
    t, u = (runner.Run(s.cfg, TOYS) for s in trials)
    Progress(t.dir).update(
        "first", outputs=runner.output_digests(t.dir, TOYS[0], t.cache), status="done"
    )
    take, seen = sweep.take_file, []

    def take_file(*words):
        take(*words)
        seen.append(words[0])
        if len(seen) == 2:
            disturb(sweep, runner.Run(t.cfg, TOYS), TOYS[0])

    monkeypatch.setattr(sweep, "take_file", take_file)
    taken = sweep.reuse_stage(trials[1], trials, TOYS[:1], TOYS)
    return taken, len(list(u.dir.glob("first/*/clip.wav"))), Progress(u.dir)["first"].status


def test_a_stage_is_not_lent_while_it_is_set_aside(toys, monkeypatch):
    import threading

    at_once = []

    def disturb(sweep, lender, stage):
        at_once.append(threading.Thread(target=sweep.set_aside, args=(lender, stage)))
        at_once[0].start()
        at_once[0].join(0.5)

    taken, clips, status = lent(toys, monkeypatch, disturb)
    at_once[0].join()
    assert taken == {"first": "t"} and clips == 20 and status == "done"
    assert (toys.dir / ".old/first/19/clip.wav").exists() and not (toys.dir / "first").exists()


def test_half_a_stage_is_never_taken_as_done(toys, monkeypatch):
    def disturb(sweep, lender, stage):
        (lender.dir / "first").rename(lender.dir / "moved by hand")

    taken, clips, status = lent(toys, monkeypatch, disturb)
    assert taken == {} and clips == 0 and status == "pending"
