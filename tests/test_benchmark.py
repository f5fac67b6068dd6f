"""`xtts-ka benchmark`: FLEURS in both of its forms, systems of every kind, a kill at any moment,
and the listening test in a real browser, from the first sound to the counted answers."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from browser import Browser, chromium

TEXTS = ["დილა მშვიდობისა", "ხუთი ლარი ღირს", "თბილისი დიდი ქალაქია", "წვიმს", "ჩაი ცხელია"]
SAY = """import sys, time, wave
out, text = sys.argv[1:3]
time.sleep(float(sys.argv[3]))
if "წვიმს" in text: sys.exit("no umbrella")
with wave.open(out, "wb") as f:
    f.setnchannels(1); f.setsampwidth(2); f.setframerate(16000)
    f.writeframes(b"\\1\\20\\1\\320" * 4000)
"""


@pytest.fixture(scope="module")
def spoken():
    "The texts by two voices of espeak-ng, at 16 kHz as in FLEURS."
    from xtts_ka.core.audio import resample
    from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer

    voices = ("nino", "giorgi")
    wavs = [Synthesizer().speak(t, voices[n % 2]).wav for n, t in enumerate(TEXTS)]
    return [resample(w, SAMPLE_RATE, 16000) for w in wavs]


def fleurs_tsv(folder, wavs):
    "As the release: `test.tsv` without a header, and `audio/test`."
    (folder / "audio/test").mkdir(parents=True)
    rows = []
    for n, (text, wav) in enumerate(zip(TEXTS, wavs)):
        soundfile.write(folder / f"audio/test/{100 + n}.wav", wav, 16000)
        spelled = " ".join(text.replace(" ", "|")) + " |"
        rows.append([str(n), f"{100 + n}.wav", text, text, spelled, str(len(wav)), "FEMALE"])
    table = "\n".join("\t".join(r) for r in rows) + "\n"
    (folder / "test.tsv").write_text(table, encoding="utf-8")


def fleurs_parquet(folder, wavs):
    "As on the hub: shards with the sound inside."
    import pyarrow as pa
    import pyarrow.parquet as pq

    sounds = []
    for n, wav in enumerate(wavs):
        buffer = io.BytesIO()
        soundfile.write(buffer, wav, 16000, format="WAV")
        sounds.append({"bytes": buffer.getvalue(), "path": f"{100 + n}.wav"})
    table = pa.table(
        {
            "id": pa.array(range(len(wavs)), pa.int32()),
            "num_samples": pa.array([len(w) for w in wavs], pa.int32()),
            "path": [f"/x/{100 + n}.wav" for n in range(len(wavs))],
            "audio": pa.array(sounds, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "transcription": TEXTS,
            "raw_transcription": TEXTS,
            "gender": pa.array([n % 2 for n in range(len(wavs))], pa.int64()),
            "lang_id": pa.array([30] * len(wavs), pa.int64()),
        }
    )
    (folder / "ka_ge").mkdir(parents=True)
    pq.write_table(table, folder / "ka_ge/test-00000-of-00001.parquet")


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    "`xtts-ka benchmark` in this process: (exit status, out, err)."
    from xtts_ka.pipeline.cli import main

    monkeypatch.setenv("XTTS_KA_UNPACKED", str(tmp_path / "unpacked"))

    def run(*words):
        capsys.readouterr()
        try:
            code = main(["benchmark", *(str(w) for w in words)])
        except SystemExit as e:
            code = e.code
        return code, *capsys.readouterr()

    return run


def program(folder, seconds=0.0):
    "A command template that speaks a tone, and cannot say one of the texts."
    (folder / "say.py").write_text(SAY, encoding="utf-8")
    words = [sys.executable, str(folder / "say.py")]
    return f"tone=command:{shlex.join(words)} {{out}} {{text}} {seconds}"


@pytest.fixture(scope="module")
def made(spoken, tmp_path_factory):
    "A benchmark of FLEURS's release with every kind of system that needs no trained model."
    from xtts_ka.core.audio import write_audio
    from xtts_ka.pipeline.cli import main

    home = tmp_path_factory.mktemp("benchmark")
    fleurs_tsv(home / "ka_ge", spoken)
    noise = np.random.default_rng(0)
    for n, wav in enumerate(spoken):
        noisy = wav + 0.02 * noise.normal(size=len(wav)).astype(np.float32)
        kept = {1: noisy * 0, 2: noisy[:0]}.get(n, noisy)
        if n != 3:
            write_audio(home / f"mine/{100 + n}.wav", kept.clip(-1, 1), 16000)
    card = {"licence": "CC BY 4.0", "parameters": "82M", "size_of_data": 12}
    (home / "mine/card.json").write_text(json.dumps(card), encoding="utf-8")
    words = ["--texts", home / "ka_ge", "--scorer", "builtin", "--out", home / "out"]
    lines = ["recordings", "espeak:tamar", f"ჩემი=folder:{home}/mine", program(home)]
    lines += ["copy=vocoder:griffin-lim"]
    words += [w for line in lines for w in ("--system", line)] + ["--trials", "2"]
    assert main(["benchmark", *(str(w) for w in words)]) == 0
    return home, [str(w) for w in words]


def result_of(folder):
    return json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))


def without_speed(result):
    "A result without what another run measures otherwise."
    text = json.dumps({k: v for k, v in result.items() if k not in ("common", "own")})
    rest = {
        w: {s: {k: v for k, v in of.items() if k != "speed|"} for s, of in result[w].items()}
        for w in ("common", "own")
    }
    for t in (held := json.loads(text))["texts"]:
        for clip in t["spoken"].values():
            clip["values"].pop("speed|", None)
    return held | rest


def test_a_table_of_all_systems(made):
    """Failures are the systems' own and count as nothing heard; a missing file narrows the
    comparison, and both tables say so."""
    result = result_of(made[0] / "out")
    cer = next(c["key"] for c in result["columns"] if c["label"] == "CER, built-in")
    of = {s["name"]: s for s in result["systems"]}
    assert [f["problem"].partition(":")[0] for f in of["ჩემი"]["failures"]] == ["silent", "empty"]
    assert of["ჩემი"]["missing"] == 1 and of["ჩემი"]["card"]["size_of_data"] == 12
    assert [f["problem"] for f in of["tone"]["failures"]] == ["exit status 1: no umbrella"]
    assert result["common texts"] == 4 and result["own"]["recordings"][cer]["n"] == 5
    value = {s: v[cer]["value"] for s, v in result["common"].items()}
    assert value["recordings"] <= value["copy"] < value["ჩემი"] and value["recordings"] < 0.35
    for name in ("ჩემი", "tone"):  # nothing heard: every letter is wrong
        bad = next(f["id"] for f in of[name]["failures"])
        text = next(t for t in result["texts"] if t["id"] == bad)
        assert text["spoken"][name]["values"][cer] == 1.0
    pairs = {(d["a"], d["b"]): d for d in result["pairs"][cer]}
    assert len(pairs) == 10 and all(d["n"] == 4 for d in pairs.values())
    assert result["scorers"][0]["version"] in cer


def test_the_page_and_the_tables(made):
    out = made[0] / "out"
    page = (out / "index.html").read_text(encoding="utf-8")
    for words in (
        "ჩემი",
        "Published figures",
        "OmniVoice",
        "More than chance?",
        "silent",
        "no umbrella",
        "CC BY 4.0",
        "Each system, all texts that it has",
    ):
        assert words in page, words
    assert page.count("<audio") == 5 * 5 - 4 and "http" not in page.replace(
        "https://github.com/NMikaa/TTS_pipelines", ""
    ).replace("http://www.w3.org/2000/svg", "")
    assert len(list((out / "media").glob("*.wav"))) >= 15
    assert '<ul class="chips"><li title=' in page and re.search(
        r'<li title="[^"]*" lang="ka">', page
    )
    assert "By the built-in recogniser:" in page and "CER, built-in" in page
    table = (out / "table.md").read_text(encoding="utf-8")
    assert table.index("| recordings |") < table.index("as published, other judge")
    tex = (out / "table.tex").read_text(encoding="utf-8")
    assert tex.count(r"\begin{tabular}") == 2 and r"CER, built-in, \%" in tex


def test_nothing_is_done_twice(made, call):
    home, words = made
    before = result_of(home / "out")
    stamps = {p: p.stat().st_mtime_ns for p in (home / "out/systems").rglob("*.wav")}
    assert call(*words)[0] == 0
    assert without_speed(result_of(home / "out")) == without_speed(before)
    assert {p: p.stat().st_mtime_ns for p in (home / "out/systems").rglob("*.wav")} == stamps
    assert len(stamps) == 5 + 4 + 5


def test_another_version_of_a_scorer_gets_its_own_column(made, call, monkeypatch):
    from dataclasses import replace

    from xtts_ka.evaluate.recognisers import Builtin

    home, words = made
    old = result_of(home / "out")
    first = Builtin.__init__

    def newer(self, *args, **options):
        first(self, *args, **options)
        self.card = replace(self.card, version="another")

    monkeypatch.setattr(Builtin, "__init__", newer)
    monkeypatch.setattr(Builtin, "_score", lambda self, wavs: [{"text": "დილა"} for _ in wavs])
    shutil.copytree(home / "out", home / "newer")  # with the scores of the older version
    assert call(*[w if w != str(home / "out") else str(home / "newer") for w in words])[0] == 0
    new = result_of(home / "newer")
    keys = [{c["key"] for c in r["columns"] if c["scorer"]} for r in (old, new)]
    assert len(keys[1]) == 3 and not keys[0] & keys[1]
    assert {t["spoken"]["recordings"]["heard"] for t in new["texts"]} == {"დილა"}


def test_killed_and_resumed(spoken, tmp_path, call):
    """`kill -9` while a program speaks: what was spoken stays, and the end is that of a benchmark
    that was never killed."""
    fleurs_tsv(tmp_path / "ka_ge", spoken)

    def words(name, wait):
        (tmp_path / name).mkdir()
        return [
            "--texts",
            tmp_path / "ka_ge",
            "--system",
            "recordings",
            "--listen",
            "none",
            "--system",
            program(tmp_path, wait),
            "--scorer",
            "prosody",
            "--out",
            tmp_path / name / "out",
        ]

    killed = words("killed", 0.4)
    log = tmp_path / "killed/out/systems/tone/spoken.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "xtts_ka.pipeline.cli", "benchmark", *map(str, killed)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not (log.is_file() and log.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in log.parent.glob("wavs/*.wav")}
    lines = log.read_text(encoding="utf-8").splitlines()
    assert 2 <= len(lines) < 5 and not (log.parents[2] / "benchmark.json").exists()
    assert call(*killed)[0] == 0
    assert log.read_text(encoding="utf-8").splitlines()[: len(lines)] == lines
    for name in [json.loads(line)["id"] for line in lines if not json.loads(line)["problem"]]:
        assert (log.parent / f"wavs/{name}.wav").stat().st_mtime_ns == kept[f"{name}.wav"]
    whole, again = result_of(tmp_path / "killed/out"), words("whole", 0.4)
    assert call(*again)[0] == 0
    assert without_speed(result_of(tmp_path / "whole/out")) == without_speed(whole)
    assert not list(log.parent.glob(".tmp-*"))


def test_parquet_of_the_hub_is_the_same_test_set(spoken, tmp_path, made, call):
    fleurs_parquet(tmp_path / "fleurs", spoken)
    words = ["--texts", tmp_path / "fleurs", "--system", "recordings", "--scorer", "builtin"]
    code, out, err = call(*words, "--listen", "none", "--out", tmp_path / "out")
    assert code == 0, err
    packed, plain = result_of(tmp_path / "out"), result_of(made[0] / "out")
    assert packed["test set"]["digest"] == plain["test set"]["digest"]
    heard = [t["spoken"]["recordings"]["heard"] for t in packed["texts"]]
    assert heard == [t["spoken"]["recordings"]["heard"] for t in plain["texts"]]
    assert (tmp_path / "out/index.html").read_text(encoding="utf-8").count("<audio") == 5


def test_a_list_for_systems_elsewhere(made, call, tmp_path):
    code, out, err = call("--texts", made[0] / "ka_ge", "--list", tmp_path / "texts.tsv")
    rows = (tmp_path / "texts.tsv").read_text(encoding="utf-8").splitlines()
    assert code == 0 and rows[0] == "id\ttext" and rows[1] == f"100\t{TEXTS[0]}" and len(rows) == 6
    script = """import sys, wave
for line in open(sys.argv[1], encoding="utf-8"):
    with wave.open(f"{sys.argv[2]}/{line.split(chr(9))[0]}.wav", "wb") as f:
        f.setnchannels(1); f.setsampwidth(2); f.setframerate(16000)
        f.writeframes(b"\\1\\20\\1\\320" * 4000)
    if line.startswith("102"): sys.exit("enough")
"""
    (tmp_path / "all.py").write_text(script, encoding="utf-8")
    line = f"all=command:{shlex.quote(sys.executable)} {tmp_path}/all.py {{list}} {{folder}}"
    words = ["--texts", tmp_path / "texts.tsv", "--system", line, "--scorer", "builtin"]
    code, out, err = call(*words, "--listen", "none", "--out", tmp_path / "out")
    failures = result_of(tmp_path / "out")["systems"][0]["failures"]
    assert code == 0 and [f["id"] for f in failures] == ["103", "104"]
    assert {f["problem"] for f in failures} == {"exit status 1: enough"}


def test_a_program_that_hangs_is_ended(tmp_path):
    from xtts_ka.evaluate.benchmark_systems import open_systems, speak_all
    from xtts_ka.evaluate.benchmark_texts import TestSet, TestText

    (tmp_path / "hang.py").write_text(
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))\n"
        "time.sleep(60)\n"
    )
    line = f"slow=command:{shlex.quote(sys.executable)} {tmp_path}/hang.py {{text}} {{out}}"
    one = TestSet("one", "", "ka", [TestText("0", "ერთი", "ერთი")])
    (system,) = open_systems([line], one, timeout=1.5)
    (clip,) = speak_all(system, tmp_path / "out")
    assert clip.problem == "stopped after 1.5 s"
    import psutil

    child = int((tmp_path / "pid").read_text())
    try:
        psutil.Process(child).wait(10)  # The end of a killed process takes a moment
    except psutil.NoSuchProcess:
        pass


@pytest.mark.parametrize(
    "words, said",
    [
        (["--system", "recordings"], "which texts?"),
        (["--texts", "T"], "which systems?"),
        (["--texts", "nosuch", "--system", "recordings"], "nosuch"),
        (["--texts", "T", "--system", "x=folder:nosuch"], "no folder"),
        (["--texts", "T", "--system", "x=model:nosuch"], "no model"),
        (["--texts", "T", "--system", "espeak:nobody"], "no voice 'nobody'"),
        (["--texts", "T", "--system", "x=command:nosuch {text} {out}"], "on the PATH"),
        (["--texts", "T", "--system", "x=command:python {txt} {out}"], "no field {txt}"),
        (["--texts", "T", "--system", "recordings", "--system", "recordings"], "two systems"),
        (["--texts", "T", "--system", "recordings", "--scorer", "ears"], "no 'ears'"),
        (["--texts", "T", "--system", "recordings", "--listen", "best"], "the kinds are mos"),
        (["--answers", "nosuch.json"], "no benchmark here"),
    ],
)
def test_wrong_calls_are_one_sentence(made, call, tmp_path, words, said):
    words = [str(made[0] / "ka_ge") if w == "T" else w for w in words]
    code, out, err = call(*words, "--out", tmp_path / "out")
    assert code == 2 and said in err and err.count("\n") == 1, err
    assert not (tmp_path / "out/benchmark.json").exists()


def test_an_output_is_no_input(made, call):
    home, _ = made
    code, out, err = call(
        "--texts", home / "ka_ge", "--system", f"x=folder:{home}/mine", "--out", home / "mine"
    )
    assert code == 2 and "not empty, and no benchmark" in err


# ---- the listening test


@pytest.mark.skipif(not chromium(), reason="no Chromium")
def test_a_listener(made, call, tmp_path):
    """Every kind of trial: a sound is played to its end, then answered; the answers are kept,
    exported and counted. The page asks for nothing outside, and is in Georgian and English."""
    out = made[0] / "out"
    plan = json.loads((out / "listening_key.json").read_text(encoding="utf-8"))
    with Browser() as b:
        b.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        b.open(out / "listen/index.html")
        b.run(FASTER)
        titles = [b.run("document.title"), b.press("#lang"), b.run("document.title")]
        assert {titles[0], titles[2]} == {"მოსმენის ტესტი", "Listening test"}
        b.press("#native")
        b.press("#start")
        answer_trial(b)
        b.open(out / "listen/index.html")  # closed and opened again: the answer is kept
        b.run(FASTER)
        assert b.run("[state.at, Object.keys(state.answers).length]") == [-1, 1]
        b.press("#start")
        while not b.run("!!document.querySelector('#export')"):
            answer_trial(b)
        state = b.run("localStorage.getItem('xtts-ka-listening-' + data.test)")
        b.press("#export")
        file = downloaded(tmp_path)
        assert b.errors == [] and b.asked == []
    held = json.loads(file.read_text(encoding="utf-8"))
    assert len(held["answers"]) == 6 and held["about"] == {"native": True, "headphones": False}
    assert json.loads(state)["listener"] == held["listener"] and held["test"] == plan["test"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(held | {"test": "another"}), encoding="utf-8")
    code, said, err = call("--out", out, "--answers", tmp_path / "answers-*.json", other)
    assert code == 1 and "1 listener, 6 answers" in said and "of another test" in said
    counted = result_of(out)["listening"]
    assert counted["listeners"] == 1 and counted["native speakers"] == 1
    assert sum(r["n"] for r in counted["mos"].values()) == 2
    assert {r["value"] for r in counted["mos"].values()} == {4.0}
    assert "1 listener, 1 of them native" in (out / "index.html").read_text(encoding="utf-8")


FASTER = """{ const play = HTMLMediaElement.prototype.play;
HTMLMediaElement.prototype.play = function () { this.playbackRate = 4; return play.call(this); }; }
"""


def answer_trial(b):
    "Play every sound to its end and answer; before that, no answer is taken."
    assert b.run("document.querySelector('#next').disabled")
    number, page = b.run("document.querySelectorAll('.sound').length"), b.run("state.at")
    for n in range(number):
        b.run(f"document.querySelectorAll('.sound')[{n}].id = 'sound{n}'")
        b.press(f"#sound{n}")
        b.wait(f"document.querySelectorAll('.sound')[{n}].classList.contains('heard')", 20)
    if b.run("!!document.querySelector('.grid')"):
        b.run(
            "for (const s of document.querySelectorAll('.grid input'))"
            " { s.value = 95; s.dispatchEvent(new Event('input')); }"
        )
    else:
        n = b.run("document.querySelectorAll('.choices label').length") - 2
        b.run(f"document.querySelectorAll('.choices label')[{n}].id = 'choice'")
        b.press("#choice")
    b.wait("!document.querySelector('#next').disabled", 5)
    b.press("#next")
    b.wait(f"state.at > {page}", 5)


def downloaded(folder):
    until = time.monotonic() + 20
    while not (found := list(folder.glob("answers-*.json"))):
        assert time.monotonic() < until, "nothing was saved"
        time.sleep(0.05)
    return found[0]
