"""`xtts-ka benchmark` with what strangers bring: odd lists and folders, sounds that were replaced,
files of listeners that were mended by hand. Sounds are tones; no network but the rules."""

import json
import shlex
import sys

import numpy as np
import pytest
import soundfile

WORDS = ["ერთი", "ორი", "სამი", "ოთხი"]


def tone(path, hz=200.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(16000) * hz * 2 * np.pi / 16000), 16000)


@pytest.fixture
def home(tmp_path):
    "A list of four texts and two folders that have them all."
    lines = [f"{n}\t{w}" for n, w in enumerate(WORDS)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for n in range(4):
        tone(tmp_path / f"a/{n}.wav", 200 + n)
        tone(tmp_path / f"b/{n}.wav", 300 + n)
    return tmp_path


@pytest.fixture
def call(home, capsys):
    "`xtts-ka benchmark` in this process: (exit status, out, err)."
    from xtts_ka.pipeline.cli import main

    def run(*words, systems=("a", "b"), texts="texts.tsv", scorer="prosody"):
        lines = [s if ":" in s else f"{s}=folder:{home / s}" for s in systems]
        more = [w for line in lines for w in ("--system", line)]
        if more:
            more += ["--texts", home / texts, "--scorer", scorer]
        capsys.readouterr()
        try:
            code = main(["benchmark", *map(str, [*more, "--out", home / "out", *words])])
        except SystemExit as e:
            code = e.code
        return code, *capsys.readouterr()

    return run


def result_of(home):
    return json.loads((home / "out/benchmark.json").read_text(encoding="utf-8"))


def exported(home, listener, value=4.0, **changes):
    "What the page saves: an answer to each single rating of a form."
    plan = json.loads((home / "out/listening_key.json").read_text(encoding="utf-8"))
    trials = [t for t in plan["forms"][0] if plan["trials"][t]["kind"] == "mos"]
    answers = [
        {"trial": t, "stimuli": plan["trials"][t]["stimuli"], "values": [value]} for t in trials
    ]
    held = {
        "format": "xtts_ka listening test 1",
        "test": plan["test"],
        "listener": listener,
        "about": {"native": True, "headphones": True},
        "answers": answers,
    } | changes
    path = home / f"answers-{listener}.json"
    path.write_text(json.dumps(held), encoding="utf-8")
    return path


def test_answers_belong_to_the_sounds_that_were_heard(home, call):
    """Listeners are pooled; with other sounds under the old names, their answers are not shown
    beside the new figures, and those who heard the old ones are refused; with the old ones back,
    they count again."""
    listen = ("--listen", "mos", "--trials", "2")
    assert call(*listen)[0] == 0
    first, second = exported(home, "nino"), exported(home, "gia", 2.0)
    code, out, err = call("--answers", first, systems=())
    assert code == 0 and "1 listener, 2 answers" in out, err
    assert "2 listeners, 4 answers" in call("--answers", second, systems=())[1]
    again = call(*listen)[1]
    assert result_of(home)["listening"]["listeners"] == 2 and "another listening" not in again
    old = (home / "a/0.wav").read_bytes()
    tone(home / "a/0.wav", 500)
    code, out, err = call(*listen)
    assert code == 0 and "listening" not in result_of(home)
    assert "answers of 2 listeners are about another listening test" in out
    page = (home / "out/index.html").read_text(encoding="utf-8")
    assert "MOS, 1 to 5" not in page and "another listening test" in page
    code, out, err = call("--answers", first, systems=())
    assert code == 2 and "of another test" in err
    (home / "a/0.wav").write_bytes(old)
    out = call(*listen)[1]
    assert result_of(home)["listening"]["listeners"] == 2 and "another listening" not in out
    out = call(*listen, "--seed", "2")[1]
    assert "listening" not in result_of(home) and "another listening test" in out
    call("--listen", "none")
    assert not (home / "out/listen").exists() and (home / "out/answers").is_dir()


def test_answers_that_were_mended_by_hand(home, call):
    "Each refused answer is named with its file and reason; the others count, each trial once."
    call("--listen", "mos", "--trials", "2")
    good = json.loads(exported(home, "x").read_text())["answers"]
    bad = [
        good[0] | {"values": [99]},
        good[0] | {"stimuli": ["nosuch"]},
        good[0] | {"values": "five"},
        7,
    ]
    many = [good[0] | {"values": [1]}, good[0] | {"values": [2]}, *bad, *good]
    path = exported(home, "nino", answers=many)
    code, out, err = call("--answers", path, systems=())
    assert code == 1 and "1 listener, 2 answers" in out
    for said in (
        "99 is not on the scale",
        "its sounds are not",
        "is a text where",
        "answered before",
    ):
        assert said in out, out
    assert good[0]["trial"] in out and path.name in out
    assert {r["value"] for r in result_of(home)["listening"]["mos"].values()} == {4.0}
    code, out, err = call("--answers", exported(home, "empty", answers=[]), systems=())
    assert code == 2 and "no answer in it" in err
    (home / "cut.json").write_text("{", encoding="utf-8")
    code, out, err = call("--answers", home / "cut.json", systems=())
    assert code == 2 and "mend it" in err and "delete" not in err
