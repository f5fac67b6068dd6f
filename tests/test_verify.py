"""Files that changed behind their dates, dates that changed without their files, other packages."""

import os
import shutil

from test_runner import shelf, toys  # noqa: F401 fixtures


def made(toys, *overrides, verify=False):
    from toy_stages import TOYS

    from xtts_ka.pipeline import runner
    from xtts_ka.pipeline.stages import load_run

    cfg = load_run(toys.root / "c.yaml", overrides, TOYS)
    return runner.Run(cfg, TOYS, **({"verify": True} if verify else {})), TOYS[0]


def finished(toys, *overrides):
    "`first` done, as the runner records it, without a kernel."
    from types import SimpleNamespace

    from xtts_ka.pipeline import runner

    run, first = made(toys, *overrides)
    (run.dir / "first").mkdir(parents=True)
    (run.dir / "first/out.json").write_text("3")
    runner.begin_stage(run, first, runner.StageDecision(run.parts(first)))
    done = SimpleNamespace(seconds=1.0, cpu_seconds=1.0)
    runner.record(run, first, done, None)


def status(toys, *overrides, verify=False):
    from xtts_ka.pipeline.runner import stage_status

    return stage_status(*made(toys, *overrides, verify=verify)).reason


def test_a_copy_without_dates_changes_nothing(toys):  # noqa: F811
    data = toys.root / "data"
    (data / "deep").mkdir(parents=True)
    (data / "deep/a.wav").write_text("a")
    (data / "metadata.csv").write_text("x")
    finished(toys, "first.path=data")
    data.rename(toys.root / "was")
    shutil.copytree(toys.root / "was", data, copy_function=shutil.copyfile)
    os.utime(data / "deep/a.wav", (1, 1))
    assert status(toys, "first.path=data") == ""
    (data / "deep/b.wav").write_text("b")
    assert status(toys, "first.path=data") == "inputs changed"


def test_verify_finds_what_dates_hide(toys):  # noqa: F811
    data = toys.root / "data"
    data.mkdir()
    (data / "a.wav").write_text("a")
    finished(toys, "first.path=data")
    before = (data / "a.wav").stat()
    (data / "a.wav").write_text("b")  # The same size, and the same date again
    os.utime(data / "a.wav", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert status(toys, "first.path=data") == ""
    assert "inputs changed behind their dates" in status(toys, "first.path=data", verify=True)


def test_verify_finds_bit_rot(toys):  # noqa: F811
    finished(toys)
    path = toys.dir / "first/out.json"
    os.utime(path, (1, 1))  # Old enough to be in the cache
    run, first = made(toys)
    run.progress.update("first", outputs={"first": _tree(run)})
    run.cache.save()
    path.write_text("2")
    os.utime(path, (1, 1))
    assert status(toys) == ""
    assert status(toys, verify=True) == "outputs/t/first was changed on the disk"


def _tree(run):
    from xtts_ka.core.files import tree_digest

    return tree_digest(run.dir / "first", run.cache)


def test_other_packages_are_told_and_run_nothing(toys, capsys):  # noqa: F811
    from xtts_ka.pipeline.runner import other_packages

    finished(toys)
    run, first = made(toys)
    state = run.progress["first"]
    assert state.packages["torch"] and other_packages(state) == ""
    assert "bfloat16" in state.packages["processor"] or not os.path.exists("/proc/cpuinfo")
    run.progress.update("first", packages=state.packages | {"torch": "0.4.1", "chainer": "7"})
    found = other_packages(run.progress["first"])
    assert "torch 0.4.1 (here " in found and "chainer 7 (here none)" in found
    assert status(toys) == ""
