"""Faults that a long run meets sooner or later, each with a count below the results: nothing is
lost, nothing is silently wrong, and the first line says what to do.

    pytest tests/test_faults.py                                                    the short form
XTTS_KA_FAULTS=full pytest tests/test_faults.py -n 2 --dist loadgroup          all: twelve minutes
on two cores

Not repeated here: a training killed at any step, 200 damages to its checkpoints and a pickle with a
manifest that fits (`test_resume.py`; more with XTTS_KA_KILLS
and XTTS_KA_DAMAGES), toy stages that die, hang and are stopped (`test_runner.py`), two kills of a
whole run (`test_kill.py`), bad rows through the stages (`test_run_bad_input.py`).
`XTTS_KA_FAULT_SEED` draws other moments, bytes and names."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import test_kill
from faults import BACK, RATE, Disk, Ways, attacks, malformed, read_only, tone
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from smoke import Home
from test_report import Page, pages  # noqa: F401, a fixture
from test_report import run as report_run  # noqa: F401 a fixture
from test_runner import shelf, toys  # noqa: F401, fixtures

FULL, SEED = (
    os.environ.get("XTTS_KA_FAULTS") == "full",
    int(os.environ.get("XTTS_KA_FAULT_SEED", 8)),
)
long = pytest.mark.skipif(not FULL, reason="takes minutes: XTTS_KA_FAULTS=full")
HEAD = "audio_file|text|speaker_name"
FREE, CLOSED = "free space there and run the same command again", "nothing can be written there"


def many(short, full):
    return full if FULL else short


def one_line(capsys, code, *words):
    "What a command ended with: its status, and one line on stderr, which says what to do."
    err = capsys.readouterr().err.splitlines()
    assert code in (1, 2) and len(err) == 1 and err[0].startswith("xtts-ka: "), (code, err)
    for w in words:
        assert w in err[0], err[0]


# ---- a whole run, stopped in every way


def disturbed_home(folder, whole, number, kills, ways):
    """A home whose run is stopped all the time, until it ends like the undisturbed one; what was
    done to it."""
    home = Home(folder, whole.root)
    if number:
        (home.root / "sitecustomize.py").write_text(BACK, encoding="utf-8")
    clock, they = test_kill.Clock(whole), Ways(home, random.Random(SEED + number))
    in_each = [
        partial(they.signalled, signum=w) if isinstance(w, int) else they.kernel_dies for w in ways
    ]
    table = test_kill.disturbed(home, clock, they.draw, they.plan(clock, kills, in_each))
    test_kill.told(table)
    they.tidy(test_kill.resumed(home))
    said = test_kill.ended_the_same(home, whole, len(table))
    if number:
        they.count["processes, each with the clock an hour behind the one before"] = (
            (home.root / "processes").stat().st_size
        )
    shutil.rmtree(home.root)
    return they.count, said


@long
@pytest.mark.timeout(1800)
def test_stopped_in_every_stage_in_every_way(smoke, tmp_path_factory, counted):
    """Two runs side by side: 92 kills at random moments, one in each training whose newest
    checkpoint is then damaged, and a dead kernel, SIGTERM and SIGINT in each stage; for one of
    them the clock goes back."""
    from xtts_ka.pipeline.stages import STAGES

    jobs = [
        (tmp_path_factory.mktemp(f"disturbed{n}"), smoke, n, 46, ways)
        for n, ways in enumerate([(signal.SIGTERM,), ("kernel", signal.SIGINT)])
    ]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: disturbed_home(*job), jobs))
    count = sum((c for c, _ in results), Counter())
    for _c, said in results:
        counted(said)
    for name in ("kernel died in", "SIGTERM in", "SIGINT in"):
        found = {k.rpartition(" ")[2]: count.pop(k) for k in list(count) if k.startswith(name)}
        counted(f"{name} {', '.join(f'{s} {n}' for s, n in found.items())}")
        assert set(found) == {s.name for s in STAGES}
    counted(", ".join(f"{n} {k}" for k, n in count.items()))
    assert (
        count["kill -9"] >= 100
        and count["damaged checkpoints"] >= 5
        and count["second runs refused"] == len(STAGES)
    )


@long
@pytest.mark.timeout(900)
def test_a_disk_that_fills_up_again_and_again(smoke, tmp_path, counted):
    """A run on a disk that is too small, made a little larger after each failure, ends in the files
    of a run that had room."""
    home, draw, ended = Home(tmp_path / "home", smoke.root), random.Random(SEED), []
    (home.root / "outputs").mkdir()
    with Disk(home.root / "outputs", 1 << 20) as disk:
        if not disk.mounted:
            pytest.skip("no right to mount a small tmpfs here")
        while not ended or ended[-1].returncode:
            ended.append(home.run("--to", "xtts_init"))
            said = ended[-1].stdout + ended[-1].stderr
            assert "Traceback" not in said and (not ended[-1].returncode or "free space" in said), (
                said
            )
            disk.resize(disk.size + draw.randrange(3 << 20, 12 << 20))
        from xtts_ka.pipeline.stages import STAGES

        names = [s.name for s in STAGES[: [s.name for s in STAGES].index("xtts_init") + 1]]
        same = test_kill.assert_same(
            home,
            smoke,
            [o for s in STAGES for o in s.outputs if s.name in names and (smoke.dir / o).is_dir()],
            more=(),
        )
        assert not list(home.dir.rglob(".tmp-*")) and (home.dir / "report/index.html").exists()
    assert len(ended) > 5
    counted(f"{len(ended) - 1} runs on a full disk, {len(same)} files the same to the bit")


# ---- full disks


def test_disk_full_while_a_checkpoint_is_written(tmp_path, counted):
    """At whatever byte it fills up: an error that says what to do, the older checkpoints whole, no
    debris; with room again, it goes on."""
    import torch

    from xtts_ka.core.checkpoint import checkpoints, load_checkpoint, refusal, save_checkpoint
    from xtts_ka.core.errors import CheckpointError

    draw, model = random.Random(SEED), {"net": {"w": torch.arange(20_000.0)}}

    def save(root, step):
        return save_checkpoint(
            root, step, model, {"main": {"m": torch.ones(20_000)}}, {"step": step}, keep=9
        )

    for trial in range(many(10, 60)):
        root = tmp_path / str(trial)
        with Disk(
            root, draw.randrange(4096, 700_000) if trial % 2 else 4096 * draw.randrange(1, 60)
        ) as disk:
            written = 0
            with pytest.raises(
                CheckpointError,
                match=r"could not be written.*earlier checkpoints are untouched, free space",
            ) as e:
                while written < 8:
                    save(root, written + 1)
                    written += 1
            assert str(root) in str(e.value)
            assert [p.name for p in root.iterdir() if p.name.startswith(".tmp-")] == [] and [
                refusal(p) for p in checkpoints(root)
            ] == [None] * written
            disk.resize(8 << 20)
            assert save(root, written + 1) and load_checkpoint(root).step == written + 1
            kind = disk.kind
    counted(f"{trial + 1} disks full ({kind})")


def test_disk_full_while_a_report_is_written(report_run, tmp_path, monkeypatch, capsys, counted):
    "The old report stays, whole; the command says in one line what to do."
    from xtts_ka.pipeline.cli import main
    from xtts_ka.pipeline.report import write_report

    draw, place = random.Random(SEED), tmp_path / "small"
    with Disk(place, 16 << 20) as disk:
        run = shutil.copytree(report_run, place / "outputs/demo")
        monkeypatch.setenv("XTTS_KA_ROOT", str(place))
        write_report(run)
        old, need = (
            {p: p.read_bytes() for p in (run / "report").rglob("*") if p.is_file()},
            sum(p.stat().st_size for p in (run / "report").rglob("*")),
        )
        for trial in range(many(6, 30)):  # noqa: B007, counted below
            disk.resize(
                disk.used + draw.randrange(0, need * 8 // 10)
                if disk.mounted
                else draw.randrange(1, need // 10)
            )
            one_line(
                capsys, main(["report", str(run)]), "No space left" if disk.mounted else "", FREE
            )
            assert {
                p: p.read_bytes() for p in (run / "report").rglob("*") if p.is_file()
            } == old and not list(run.glob(".tmp-*"))
        disk.resize(64 << 20)
        assert main(["report", str(run)]) == 0
    counted(f"{trial + 1} disks full ({disk.kind})")


def test_a_mapped_file_claims_its_space(tmp_path):
    "A page of a mapped file that finds no room would end the process with SIGBUS."
    from xtts_ka.core.ragged import RaggedArray

    with Disk(tmp_path / "small", 200_000) as disk:
        with pytest.raises(OSError, match="No space left|File too large"):
            RaggedArray.write(
                tmp_path / "small/shelf", iter([np.zeros((2000, 80), np.float32)]), 2000
            )
        assert not list((tmp_path / "small").iterdir())
        disk.resize(4 << 20)
        assert (
            len(
                RaggedArray.write(
                    tmp_path / "small/shelf", iter([np.ones((2000, 80), np.float32)]), 2000
                )[0]
            )
            == 2000
        )


# ---- places that cannot be written


def test_read_only_outputs(report_run, tmp_path, monkeypatch, capsys, counted):
    "Every command that writes says so in one line, and changes nothing."
    from xtts_ka.pipeline.cli import main
    from xtts_ka.pipeline.pretrain import main as pretrain

    for name in ("nbs", "configs"):
        (tmp_path / name).symlink_to(Path(__file__).resolve().parents[1] / name)
    calls = [
        ["run", "--config", "configs/smoke.yaml", "run=demo"],
        ["run", "--config", "configs/smoke.yaml", "run=new"],
        ["report", str(report_run)],
        ["normalize", "--out", str(tmp_path / "outputs/a.txt"), "5 კაცი"],
        ["phonemize", "--out", str(tmp_path / "outputs/a.txt"), "5 კაცი"],
    ]
    (report_run / "pretrain_progress.json").write_text('{"schema": 1, "run": "demo", "stages": {}}')
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "outputs").rglob("*")}
    with read_only(tmp_path / "outputs") as closed:
        if not closed:
            pytest.skip(
                "root may write everywhere, and there is no right to mount a folder read-only"
            )
        for call in calls:
            one_line(capsys, main(call), CLOSED)
        assert pretrain(
            ["--config", "configs/smoke.yaml", "run=new"]
        ) == 1 and capsys.readouterr().err.startswith("run_pretrain: ")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "outputs").rglob("*")} == before
    counted(f"{len(calls) + 1} commands")


def test_a_mistake_of_ours_begins_with_a_line_that_says_what_holds(monkeypatch, capsys):
    from xtts_ka.pipeline import cli, runner

    monkeypatch.setattr(runner, "run", lambda *a, **kw: 1 / 0)
    assert cli.main(["run", "--config", "configs/smoke.yaml"]) == 1
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert (
        first.startswith("xtts-ka: internal error (ZeroDivisionError")
        and "What is finished is kept, and the same command goes on" in first
        and second.startswith("Traceback")
    )


# ---- two at once


def test_of_many_that_start_at_once_one_runs(tmp_path, counted):
    """Processes that all want the lock of a folder in the same moment: one gets it, the others are
    told whom to wait for."""
    code = (
        "import os, sys, time\nfrom xtts_ka.pipeline.state import LockedError, RunLock\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "for _ in range(int(sys.argv[3])):\n"
        "    pid = os.fork()\n    if pid: continue\n"
        "    try:\n        with RunLock(sys.argv[1]): time.sleep(2)\n        os._exit(0)\n"
        "    except LockedError as e: os._exit(2 if 'is running in this folder' in str(e) else 3)\n"
        "print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(int(sys.argv[3]))])"
    )
    for trial in range(many(2, 10)):  # noqa: B007, counted below
        start = [sys.executable, "-c", code, str(tmp_path), str(time.time() + 2), "5"]
        two = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        codes = Counter(c for p in two for c in json.loads(p.communicate()[0]))
        assert codes == {0: 1, 2: 9}, codes
    counted(f"{10 * (trial + 1)} processes, {trial + 1} ran")


# ---- the clock


def test_a_clock_that_goes_back_hides_nothing(toys, monkeypatch, capsys, counted):  # noqa: F811
    """Files from the future: what is done stays done, what changed is seen, and a report from
    before the last stage is written again."""
    from xtts_ka.pipeline import runner

    page, made = toys.dir / "report/index.html", []

    def report(d):
        made.append(d)
        page.parent.mkdir(exist_ok=True)
        page.touch()
        return page

    monkeypatch.setattr(runner, "make_report", report)
    assert toys.run(to="first") == 0 and len(made) == 1
    ahead = time.time() + 7 * 86400

    def future():
        [os.utime(p, (ahead, ahead)) for p in toys.dir.rglob("*")]

    future()
    monkeypatch.setattr(runner, "make_report", lambda d: 1 / 0)  # the call ends before its report
    assert toys.run() == 1 and toys.status() == dict.fromkeys(("first", "second", "third"), "done")
    monkeypatch.setattr(runner, "make_report", report)
    toys.ran()
    assert toys.run() == 0 and len(made) == 2 and toys.ran() == [], (
        "the report is of the first stage alone, though its date says otherwise"
    )
    future()
    assert toys.run() == 0 and toys.ran() == [] and len(made) == 2
    (toys.dir / "second/out.json").write_text("7.5")
    assert toys.run() == 0 and toys.ran() == ["second"], (
        "changed on the disk; its result is as before, so the third stands"
    )
    counted("4 calls from before their own files")


# ---- rows

letters = st.characters(exclude_categories=("Cs",), exclude_characters="\n")
words = st.text(
    st.one_of(
        st.sampled_from(
            "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ abc,.'\"|\t\r\0;/\\..\u200b\u2028\ufeff="
        ),
        letters,
    ),
    max_size=12,
)
lines = st.one_of(
    st.builds(
        "{}.wav|{}|{}".format,
        st.sampled_from(["a", "b", "wavs/c", "../d", "/e", "f" * 300]),
        words,
        words,
    ),
    st.lists(words, max_size=6).map("|".join),
    words,
).map(str.encode) | st.binary(max_size=40).map(lambda b: b.replace(b"\n", b""))


def holds_something(raw):
    try:
        return bool(raw.decode().strip())
    except UnicodeDecodeError:
        return True


ROWS, KEPT = Counter(), Counter()


def one_file(folder, raws, name, head, read, fields):
    "Every line is kept as it was written, or listed; in `name`."
    (folder / name).write_bytes(b"\n".join([head, *raws] if head else raws))
    m = read()
    said = dict(enumerate(raws, 2 if head else 1))
    kept, out = [r.line for r in m.rows], [r.line for r in m.rejects]
    assert len({*kept, *out}) == len(kept) + len(out) and {
        n for n, raw in said.items() if holds_something(raw)
    } <= {*kept, *out}
    for r in m.rows:
        own = unicodedata.normalize("NFC", said[r.line].decode().removesuffix("\r"))
        assert fields(own, r), (own, r)
    for r in m.rejects:
        assert r.reason and r.file.endswith(name)
    ROWS[folder.name, name] += len(kept) + len(out)
    KEPT[folder.name, name] += len(m.rows)
    return m


@seed(SEED)
@settings(
    max_examples=many(60, 300),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(raws=st.lists(lines, min_size=25, max_size=60))
def check_rows(folder, raws):
    from xtts_ka.core.manifest import read_manifest, write_manifest
    from xtts_ka.corpus.loaders import read_corpus

    raws = [b"first.wav|text|voice", *raws]
    m = one_file(
        folder,
        raws,
        "metadata.csv",
        HEAD.encode(),
        lambda: read_manifest(folder, check_audio=False),
        lambda own, r: (
            [p.strip() for p in own.split("|")] == [r.audio_file, r.text, r.speaker_name]
        ),
    )
    write_manifest(folder / "again.csv", m.rows, m.columns)
    assert read_manifest(folder / "again.csv", check_audio=False).rows == m.rows

    def loose(name):
        return lambda: read_corpus(folder / "o", format=name, check_audio=False)

    (folder / "o").mkdir(exist_ok=True)
    (folder / "o/clips").mkdir(exist_ok=True)
    for f in ("a.wav", "b.wav", "first.wav", "clips/text.mp3"):
        (folder / "o" / f).touch()
    one_file(
        folder / "o",
        raws,
        "metadata.csv",
        HEAD.encode(),
        loose("coqui"),
        lambda own, r: [p.strip() for p in own.split("|")[:2]] == [r.audio_file.strip(), r.text],
    )
    tabs = [b"id\tfirst\tsomething", *(raw.replace(b"|", b"\t") for raw in raws)]
    pieces = [b"first|text|said", *raws]
    (folder / "lj/wavs").mkdir(parents=True, exist_ok=True)
    (folder / "lj/wavs/first.wav").touch()
    (folder / "lj/wavs/a.wav").touch()
    one_file(
        folder / "lj",
        pieces,
        "metadata.csv",
        b"",
        lambda: read_corpus(folder / "lj", format="ljspeech", check_audio=False),
        lambda own, r: r.text in [p.strip() for p in own.split("|")],
    )
    (folder / "f/audio/train").mkdir(parents=True, exist_ok=True)
    (folder / "f/audio/train/a.wav").touch()
    one_file(
        folder / "f",
        [b"1\ta.wav\ttext\ttext\tx", *tabs],
        "train.tsv",
        b"",
        lambda: read_corpus(folder / "f", format="fleurs", check_audio=False),
        lambda own, r: own.split("\t")[2].strip() == r.text,
    )
    one_file(
        folder / "o",
        tabs,
        "validated.tsv",
        b"client_id\tpath\tsentence",
        loose("common_voice"),
        lambda own, r: own.split("\t")[2].strip() == r.text,
    )


def test_malformed_rows(tmp_path, counted):
    """No row is lost, none changes its meaning: neither in our manifest nor in the tables of coqui,
    LJSpeech, FLEURS and Common Voice."""
    ROWS.clear()
    KEPT.clear()
    check_rows(tmp_path)
    assert (
        sum(ROWS.values()) >= 5000 and len(ROWS) == 5 and all(0 < KEPT[k] < ROWS[k] for k in ROWS)
    ), (ROWS, KEPT)
    counted(
        f"{sum(ROWS.values())} rows in tables of five kinds: {sum(KEPT.values())} kept,"
        f" {sum(ROWS.values()) - sum(KEPT.values())} rejected, each with its line and reason"
    )


# ---- sounds


def read_all(folder):
    """Read every file of a folder; print what came of each, and the memory used. Run in a process
    of its own: a crash would be seen."""
    from xtts_ka.core.audio import AudioError, check_audio, read_audio

    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    for path in sorted(Path(folder).iterdir()):
        start = time.process_time()
        try:
            wav, rate = read_audio(path)
            word = (
                "read"
                if np.isfinite(wav).all() and np.abs(wav).max() <= 1 and 0 < len(wav) <= 2 * RATE
                else f"wrong: {len(wav)} samples"
            )
        except AudioError as e:
            word = e.reason
        try:
            check_audio(path)
            checked = "read"
        except AudioError as e:
            checked = e.reason
        found[path.name] = word, checked, time.process_time() - start
    print(
        json.dumps(
            {
                "found": found,
                "kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
            }
        )
    )


def test_malformed_sounds(tmp_path, counted):
    "A reason for each, no crash, bounded time and memory; what is read is sound."
    from xtts_ka.core.audio import REASONS

    (tmp_path / "parts").mkdir()
    (tmp_path / "bad").mkdir()
    made = {}
    for name, data, refused in malformed(tmp_path / "parts", random.Random(SEED), 500):
        (tmp_path / "bad" / name).write_bytes(data)
        made[name] = refused
    ended = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "bad")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, (
        f"the reader ended with {ended.returncode}\n{ended.stderr[-2000:]}"
    )
    said = json.loads(ended.stdout)
    assert [
        n
        for n, (word, checked, _) in said["found"].items()
        if {word, checked} - {"read", *REASONS} or made[n] and "read" in (word, checked)
    ] == []
    assert [
        n for n, (word, checked, _) in said["found"].items() if word == "read" and checked != "read"
    ] == []
    slowest = max(s for *_, s in said["found"].values())
    assert slowest < 1 and said["kilobytes"] < 200_000
    tally = Counter(word for word, *_ in said["found"].values())
    counted(
        f"{len(made)} files: {', '.join(f'{n} {w}' for w, n in tally.most_common())}; slowest"
        f" {slowest * 1000:.0f} ms of CPU, {said['kilobytes'] / 1000:.0f} MB more memory"
    )


# ---- paths that lead out


def test_paths_that_lead_out(tmp_path, counted):
    """Neither a manifest nor a release of another form reaches a file outside of its folder; and
    no archive is unpacked as a whole: its members are written under names of ours."""
    from xtts_ka.core.audio import write_audio
    from xtts_ka.core.errors import PathError
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.core.paths import inside
    from xtts_ka.corpus.loaders import read_corpus

    folder, secret = tmp_path / "a/b/corpus", tmp_path / "secret.wav"
    for path in (folder / "wavs/a.wav", secret):
        write_audio(path, tone(), RATE)
    (folder / "link").symlink_to(tmp_path)
    (folder / "wavs/up").symlink_to("../../..")
    names = [
        "link/secret.wav",
        "wavs/up/../secret.wav",
        "wavs/up/secret.wav",
        *attacks(random.Random(SEED), 200, secret),
    ]

    def stays(path):
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))

    for name in names:
        try:
            assert stays(inside(folder, name)), name
        except PathError:
            pass
    kept = 0
    for head, mark, form, file in (
        (HEAD, "|", "manifest", "metadata.csv"),
        (HEAD, "|", "coqui", "metadata.csv"),
        ("client_id\tpath\tsentence", "\t", "common_voice", "validated.tsv"),
    ):
        row = (
            (lambda n: ["speaker", f"../{n}", "ტექსტი"])
            if mark == "\t"
            else (lambda n: [n, "ტექსტი", "speaker"])
        )
        (folder / file).write_text(
            "\n".join([head, *(mark.join(row(n)) for n in names)]), encoding="utf-8"
        )
        m = read_manifest(folder) if form == "manifest" else read_corpus(folder, format=form)
        assert (
            len(m.rows) + len(m.rejects) == len(names)
            and [r.audio_file for r in m.rows if not stays(m.audio_path(r))] == []
        )
        kept += len(m.rows)
    assert kept < 10  # the one file inside, under names that mean it
    root = Path(__file__).resolve().parents[1]
    assert [
        p.name
        for p in (root / "xtts_ka").rglob("*.py")
        if "extractall" in p.read_text(encoding="utf-8")
        or "unpack_archive" in p.read_text(encoding="utf-8")
    ] == []
    counted(f"{len(names)} names in 4 readers, none led out")


# ---- files that carry code


def carriers():
    "Every function that reads tensors or arrays from a file: (name of the file, how to read it)."
    from xtts_ka.core.checkpoint import read_tensors
    from xtts_ka.core.ragged import RaggedArray
    from xtts_ka.speaker.create_speaker_embeddings import load_vector
    from xtts_ka.speaker.ecapa import load_speechbrain
    from xtts_ka.speaker.embedding_visualization import _vector
    from xtts_ka.vocoder.checkpoint import load_generator
    from xtts_ka.vocoder.config import MelConfig
    from xtts_ka.vocoder.discriminators import load_discriminators
    from xtts_ka.vocoder.features import load_mel
    from xtts_ka.vocoder.wvmos import load_wvmos
    from xtts_ka.xtts.base import load_tensors
    from xtts_ka.xtts.export import load_dvae

    return {
        "a.pth": read_tensors,
        "model.pth": load_tensors,
        "generator.pt": load_generator,
        "do_1.pth": lambda p: load_discriminators(p, {}),
        "wv_mos.ckpt": load_wvmos,
        "embedding_model.ckpt": load_speechbrain,
        "a.pt": load_vector,
        "dvae.pth": lambda p: load_dvae(p.parent),
        "a.npy": _vector,
        "mel.npy": lambda p: load_mel(p, MelConfig(), trust=True),
        "frames.npy": lambda p: RaggedArray(p.parent),
    }


def test_files_that_carry_code(tmp_path, counted):
    "Refused with a clear error wherever tensors are read, and nothing of them runs."
    import torch

    from xtts_ka.core.config import to_dict
    from xtts_ka.core.errors import XttsKaError
    from xtts_ka.xtts.config import DvaeConfig

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    (tmp_path / "export.json").write_text(json.dumps({"about": {"dvae": to_dict(DvaeConfig())}}))
    (tmp_path / "index.json").write_text('{"lengths": [1]}')
    for name, read in carriers().items():
        if name.endswith(".npy"):
            np.save(tmp_path / name, np.array([Bomb()], dtype=object), allow_pickle=True)
        else:
            torch.save(
                {"model": Bomb(), "state_dict": {"w": torch.ones(2)}, "generator": Bomb()},
                tmp_path / name,
            )
        with pytest.raises(XttsKaError) as e:
            read(tmp_path / name)
        assert name in str(e.value) or str(tmp_path) in str(e.value), f"{name}: {e.value}"
        assert not (tmp_path / "it_ran").exists(), name
    os.rmdir(
        Bomb().__reduce__()[0](*Bomb().__reduce__()[1]) or tmp_path / "it_ran"
    )  # it would have: the call makes the folder
    counted(f"{len(carriers())} readers refused")


# ---- records

HOSTILE = [
    None,
    True,
    -1,
    10**400,
    0.5,
    "",
    "x" * 300,
    "../../etc/passwd",
    "a\x1b[31m",
    [],
    {},
    [[]],
]


def mutated(draw, good) -> bytes:
    "A record in which one value is another, or whose bytes are cut, doubled or no UTF-8."
    text = json.dumps(good, ensure_ascii=False)
    kind = draw.randrange(5)
    if kind < 3:
        tree = json.loads(text)
        at = tree
        while True:
            key = draw.choice(list(at) if isinstance(at, dict) else range(len(at)))
            below = at[key]
            if not (isinstance(below, (dict, list)) and below) or draw.random() < 0.3:
                break
            at = below
        at[key] = draw.choice([*HOSTILE, json.loads("[" * 300 + "]" * 300)])
        return json.dumps(tree).encode()
    data, cut = text.encode(), draw.randrange(1, len(text))
    return data[:cut] if kind == 3 else data[:cut] + draw.choice([b"\xff", b"{", b"\0", data])


def records(place, monkeypatch):
    "Name of a record -> (where it lies, a good one, what reads it)."
    from xtts_ka.pipeline.hub import pull
    from xtts_ka.pipeline.state import Progress
    from xtts_ka.sovits.infer import load_model
    from xtts_ka.xtts.export import verify_export
    from xtts_ka.xtts.infer import read_heads, read_pace

    monkeypatch.setenv("XTTS_KA_ROOT", str(place))
    for name in ("run", "export", "shared", "sovits"):
        (place / name).mkdir()
    (place / "shared/notes.txt").write_text("a")
    (place / "export/notes.txt").write_text("a")
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"

    def by_export(folder):
        verify_export(folder)
        read_pace(folder)
        read_heads(folder)

    stage = {"status": "done", "seconds": 1.5, "outputs": {"a": "b"}, "metrics": {"CER": 0.1}}
    progress = {"schema": 1, "run": "t", "stages": {"corpus": stage}}
    about = {"dvae": {"codes": 64}, "pace": {"base": 1.0, "slope": 2.0}, "heads": [[0, 1]]}
    held = {"files": {"notes.txt": {"bytes": 1, "sha256": digest}}}
    limits = {"stay": 9, "tail": 5, "after": 3, "pace": 2.0}
    sovits = {"language": "ka", "prompt_seconds": 3.0, "bge": "", "limits": limits}
    return {
        "pretrain_progress.json": (place / "run", progress, Progress),
        "export.json": (place / "export", {"sha256": {"notes.txt": digest}, **about}, by_export),
        "hub.json": (
            place / "shared",
            held,
            lambda folder: pull(f"file://{folder}", Path(tempfile.mkdtemp(dir=place)) / "new"),
        ),
        "config.json": (place / "sovits", sovits, load_model),
    }


def test_records_that_were_edited(tmp_path, monkeypatch, capsys, counted):
    "Each is read, or refused in one line that names it; none ends in another error."
    from xtts_ka.core.errors import XttsKaError

    draw, refused, read = random.Random(SEED), 0, 0
    for name, (folder, good, reader) in records(tmp_path, monkeypatch).items():
        for _ in range(many(60, 500)):
            data = mutated(draw, good)
            (folder / name).write_bytes(data)
            try:
                reader(folder)
                read += 1
            except XttsKaError as e:
                refused += 1
                assert "\n" not in str(e) and str(e).isprintable(), (name, data[:200], str(e))
            except Exception as e:
                raise AssertionError(f"{name}: {type(e).__name__}: {e}; {data[:300]!r}") from e
    assert refused > read and read
    counted(f"{refused + read} edited records of four kinds: {refused} refused, {read} read")


# ---- HTML in names and texts


def test_html_in_names_and_texts_is_shown_as_text(report_run, counted):
    """Whatever stands in speakers, sentences, file names, rejects and errors, the pages hold no tag
    and no attribute of it."""
    import soundfile

    from xtts_ka.pipeline.report import write_report

    tags = [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</td><td>",
        '"><svg onload=alert(1)>',
        "'><b>",
        "<!--",
        "]]>",
        "&lt;i&gt;",
        "<iframe src=//x>",
        "<a href=javascript:alert(1)>x</a>",
        "{{7*7}}",
        "<style>*{display:none}</style>",
    ]

    def report(write):
        "The pages of a run in which texts and names are what `write` makes of our evil ones."
        draw, spoken, rejects = random.Random(SEED), [], ["stage|file|line|item|reason"]
        for i in range(many(60, 300)):
            evil = write("".join(draw.sample(tags, draw.randint(1, 3))))
            if i % 10 == 0:
                soundfile.write(
                    report_run / "evaluate" / (name := f"{i}_{evil.replace('/', '_')[:100]}.wav"),
                    tone(0.1),
                    RATE,
                )
            spoken.append(f"outputs/demo/evaluate/{name}\t{evil} {i}\t{evil}\tgpt")
            rejects.append(f"corpus|{evil}|{i}|{evil} {i}|{evil}")
        (report_run / "spoken.tsv").write_text("\n".join(spoken) + "\n", encoding="utf-8")
        (report_run / "rejects.csv").write_text("\n".join(rejects) + "\n", encoding="utf-8")
        return spoken, rejects, pages(write_report(report_run))

    tame = report(lambda evil: "ok")[-1]
    spoken, rejects, found = report(str)
    for name, page in found.items():
        assert Counter(page.tags) == Counter(tame[name].tags) and Counter(
            k for k, _ in page.attributes
        ) == Counter(k for k, _ in tame[name].attributes), name
        assert "javascript:" not in "".join(v or "" for v in page.addresses), name
    shown = sum(line.split("\t")[1] in found["index.html"].words for line in spoken)
    assert shown == len(spoken)
    counted(f"{len(spoken)} sentences and {len(rejects) - 1} rejects with HTML, all shown as text")


if __name__ == "__main__":
    read_all(sys.argv[1])
