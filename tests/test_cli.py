"""The command line as a user meets it: help, mistakes, exit statuses. What depends on the process
(the installed program, what it imports) is one of its own; mistakes are made in this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from calls import called

PROGRAM = [str(Path(sys.executable).with_name("xtts-ka"))]


def call(*argv, cwd, program=PROGRAM, root=None, **env):
    root = {"XTTS_KA_ROOT": str(root)} if root else {}
    return subprocess.run(
        [*program, *map(str, argv)],
        cwd=cwd,
        env=os.environ | root | env,
        capture_output=True,
        text=True,
    )


def refused(run, *words, code=2):
    "One clear message: the status, no traceback, and all these words."
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    for w in words:
        assert w in run.stderr, f"{w!r} is not in:\n{run.stderr}"
    return run.stderr


@pytest.mark.parametrize(
    "command, words",
    [
        ((), ("run", "speak", "report", "config")),
        (
            ("run",),
            (
                "--config FILE",
                "--only STAGE",
                "--from STAGE",
                "--to STAGE",
                "--force",
                "--list",
                "--dry-run",
                "KEY=VALUE",
            ),
        ),
        (
            ("speak",),
            (
                "--model",
                "--speaker NAME",
                "--out FILE",
                "(default: spoken.wav)",
                "--temperature",
                "--seed",
            ),
        ),
        (("report",), ("RUN_DIR",)),
        (("config",), ("--config FILE",)),
    ],
)
def test_help(command, words, tmp_path):
    run = call(*command, "--help", cwd=tmp_path)
    assert run.returncode == 0 and [w for w in words if w not in run.stdout] == []


def test_version_and_module(tmp_path):
    import xtts_ka

    for program in (PROGRAM, [sys.executable, "-m", "xtts_ka.pipeline.cli"]):
        run = call("--version", cwd=tmp_path, program=program)
        assert (run.returncode, run.stdout.strip()) == (0, f"xtts-ka {xtts_ka.__version__}")


def test_wrong_calls(tmp_path):
    refused(called(cwd=tmp_path), "COMMAND")
    refused(called("rnu", cwd=tmp_path), "rnu", "run")
    refused(called("run", cwd=tmp_path), "--config configs/demo.yaml")
    refused(called("run", "--confg", "a.yaml", cwd=tmp_path), "did you mean --config?")
    refused(
        called("run", "--config", "none.yaml", cwd=tmp_path, root=tmp_path),
        "none.yaml: no such file",
    )
    refused(called("report", tmp_path, cwd=tmp_path), "pretrain_progress.json", "outputs/demo")
    refused(called("speak", "  ", "--checkpoint", tmp_path, cwd=tmp_path), "the text is empty")


def test_wrong_configuration_names_file_line_and_the_right_key(tmp_path):
    wrong = tmp_path / "wrong.yaml"

    def with_(text):
        wrong.write_text(text)
        return called("run", "--config", "wrong.yaml", cwd=tmp_path, root=tmp_path)

    refused(
        with_("run: a\nseed: 2\ncorpus:\n  voicse: 4\n"),
        "wrong.yaml:4",
        "voicse",
        "did you mean `corpus.voices`",
    )
    refused(with_("run: a\ncorpsu: {}\n"), "wrong.yaml:2", "did you mean `corpus`")
    refused(with_("seed: many\n"), "wrong.yaml:1", "`seed` must be int", "many")
    refused(with_("seed: 1\nseed: 2\n"), "wrong.yaml:2", "given twice")
    refused(with_("run: [\n"), "wrong.yaml:", "not valid YAML")
    refused(with_("run: ../up\n"), "name of a folder")
    assert not (tmp_path / "outputs").exists()


def test_wrong_overrides(tmp_path):
    (tmp_path / "c.yaml").write_text("run: a\n")

    def run(*words):
        return called("run", "--config", "c.yaml", *words, cwd=tmp_path, root=tmp_path)

    refused(run("corpus.voices", "=", "4"), "corpus.voices")
    refused(run("corpus.voices: 4"), "write corpus.voices=4")
    refused(run("corpus.vioces=4"), "override 'corpus.vioces=4'", "did you mean `corpus.voices`")
    refused(run("--only", "segmets"), "did you mean `segments`")
    refused(run("--only", "corpus", "--to", "segments"), "one or the other")
    assert not (tmp_path / "outputs").exists()


def test_list_is_quick_and_imports_no_stage(tmp_path):
    code = (
        "import sys; from xtts_ka.pipeline.cli import main; r = main(['run', '--list']); print([m"
        " for m in ('torch', 'numpy', 'papermill', 'xtts_ka.corpus') if m in sys.modules]);"
        " sys.exit(r)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"XTTS_KA_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "full_pretrain" in run.stdout and run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["demo", "smoke"])
def test_shipped_configurations_are_whole(root, tmp_path, name):
    run = called("config", "--config", root / f"configs/{name}.yaml", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (tmp_path / "full.yaml").write_text(run.stdout)
    again = called("config", "--config", "full.yaml", cwd=tmp_path)
    assert again.stdout == run.stdout and yaml.safe_load(run.stdout)["run"] == name
    bare = [
        f"{name}.yaml:{i}: {line.strip()}"
        for i, line in enumerate((root / f"configs/{name}.yaml").read_text().splitlines(), 1)
        if line.strip() and "#" not in line and not line.rstrip().endswith(":")
    ]
    assert bare == [], f"lines without a comment: {bare}"


def test_the_configuration_fits_the_notebooks(root, tmp_path):
    "A field that a notebook does not take, or the other way round, is found by a dry run."
    from xtts_ka.pipeline.stages import STAGES

    run = called("run", "--config", "configs/smoke.yaml", "--dry-run", "run=not-there", cwd=root)
    assert run.returncode == 0 and run.stdout.count("would run") == len(STAGES), (
        run.stdout + run.stderr
    )


def test_overrides_stand_anywhere(root, tmp_path):
    run = called(
        "config",
        "corpus.voices=3",
        "--config",
        root / "configs/smoke.yaml",
        "corpus.language=en",
        "corpus.source=folder",
        "corpus.path=x",
        cwd=tmp_path,
    )
    found = yaml.safe_load(run.stdout)
    assert (found["corpus"]["voices"], found["corpus"]["language"]) == (3, "en")


def test_text_commands_keep_lines_and_say_what_is_lost(tmp_path):
    (tmp_path / "in.txt").write_bytes(
        "ქ. თბილისში 25-ზე\r\n\n".encode() + b"\xff\xfe\n" + "XIX ს-ში\n".encode()
    )
    run = called("normalize", "--input", "in.txt", cwd=tmp_path)
    assert (
        run.stdout.split("\n") == ["ქალაქ თბილისში ოცდახუთზე", "", "", "მეცხრამეტე საუკუნეში", ""]
        and run.returncode == 1
    )
    assert "line 3" in run.stderr and "1 of 4 lines" in run.stderr and "Traceback" not in run.stderr
    run = called("phonemize", "--mode", "narrow", "ვარდი და 2", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "v a ɾ d i | d̥ a | o ɾ i\n")
    spans = json.loads(called("normalize", "--format", "json", "5%-ით", cwd=tmp_path).stdout)[
        "spans"
    ]
    assert [(s["source"], s["spoken"]) for s in spans] == [("5%-ით", "ხუთი პროცენტით")]
    refused(called("normalize", "--input", "nowhere.txt", cwd=tmp_path), "nowhere.txt")


def test_speak_says_what_is_missing(tmp_path):
    refused(called("speak", "გამარჯობა", "--checkpoint", tmp_path / "none", cwd=tmp_path), "none")


def test_a_locked_run_names_its_holder(root, tmp_path):
    from xtts_ka.pipeline.state import RunLock

    (tmp_path / "outputs/a").mkdir(parents=True)
    (tmp_path / "nbs").symlink_to(root / "nbs")
    (tmp_path / "c.yaml").write_text("run: a\n")
    with RunLock(tmp_path / "outputs/a"):
        refused(
            called("run", "--config", "c.yaml", cwd=tmp_path, root=tmp_path),
            f"process {os.getpid()}",
            "run=NAME",
        )
