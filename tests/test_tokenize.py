"""`xtts-ka sovits tokenize` under torchrun, as jobs of an array, killed and resumed, leaves the
files of one process that nothing disturbed."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from forks import Forked
from test_cli import refused

from xtts_ka.core.audio import write_audio
from xtts_ka.core.files import sha256_file
from xtts_ka.core.manifest import read_rejects
from xtts_ka.core.ragged import RaggedArray
from xtts_ka.core.shards import Shard
from xtts_ka.pipeline.cli import main

CLIPS, BAD = (
    30,
    {
        "empty.wav": "empty",
        "text.wav": "",
        "სიჩუმე.wav": "silent",
        "absent.wav": "missing",
        "long.wav": "too_long",
    },
)
READABLE = CLIPS + len(BAD) - 1  # One file is not there
WORDS = [
    "sovits",
    "tokenize",
    "--model",
    "model",
    "--manifest",
    "corpus",
    "--max_seconds",
    "4",
    "--device",
    "cpu",
]
ENV = dict(OMP_NUM_THREADS="1", XTTS_KA_PROGRESS="off")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An untrained tokenizer (what is compared is files, not letters) and thirty clips of all
    lengths, beside five of no use and half a line."""

    from xtts_ka.core.randomness import seeded_step
    from xtts_ka.sovits.config import SemanticConfig
    from xtts_ka.sovits.semantic import CharVocabulary, SemanticNet
    from xtts_ka.sovits.train_semantic import SemanticTokenizer

    root = tmp_path_factory.mktemp("ტოკენები და tokens")
    seeded_step(0, "tokenizer")
    letters = CharVocabulary.of(["დილა მშვიდობისა"])
    SemanticTokenizer(
        SemanticNet(SemanticConfig(dim=64, heads=2, before=2, kernel=5), len(letters)).eval(),
        letters,
    ).save(root / "model")
    draw, wavs = np.random.default_rng(0), root / "corpus/wavs"
    for i in range(CLIPS):
        t = np.arange(draw.integers(1500, 60000)) / 16000
        write_audio(
            wavs / f"კლიპი {i}.wav",
            0.05 * np.sin(2 * np.pi * (90 + 40 * (i % 4)) * t)
            + 0.02 * draw.standard_normal(len(t)),
            16000,
        )
    (wavs / "empty.wav").write_bytes(b"")
    (wavs / "text.wav").write_bytes(b"x" * 500)
    write_audio(wavs / "სიჩუმე.wav", np.zeros(16000), 16000)
    write_audio(wavs / "long.wav", 0.1 * draw.standard_normal(70000), 16000)
    lines = [f"wavs/{n}|ა|ნინო" for n in [*(f"კლიპი {i}.wav" for i in range(CLIPS)), *BAD]]
    (root / "corpus/metadata.csv").write_text(
        "\n".join(["audio_file|text|speaker_name", *lines, "half a line"]) + "\n", encoding="utf-8"
    )
    return root


def start(home, out, *more, program):
    "A process of its own, of another interpreter: it finds its place by torchrun."
    return subprocess.Popen(
        [*program, *WORDS, "--out", out, *more],
        env=os.environ | ENV | dict(XTTS_KA_ROOT=str(home)),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def forked(home, out):
    env = ENV | dict(XTTS_KA_ROOT=str(home))
    return Forked(main, [*WORDS, "--out", out], env=env, cwd=home)


@pytest.fixture
def here(home, monkeypatch, capsys):
    "The same command in this process."
    for k, v in ENV.items():
        monkeypatch.setenv(k, v)
    monkeypatch.setenv("XTTS_KA_ROOT", str(home))

    def here(*words, **env):
        for k, v in env.items():
            monkeypatch.setenv(k, v)
        code = main([str(w) for w in words])
        return subprocess.CompletedProcess(words, code, *capsys.readouterr())

    return here


def contents(home, out):
    "Digests of everything that somebody may read; locks are not."
    return {
        p.relative_to(home / out).as_posix(): sha256_file(p)
        for p in (home / out).rglob("*")
        if p.is_file() and "shards" not in p.parts
    }


@pytest.fixture
def alone(home, here):
    "The files of one process, made once."
    if not (home / "alone/codes").exists():
        run = here(*WORDS, "--out", "alone")
        assert f"{READABLE} tokenised now" in run.stdout and "6 rejected" in run.stdout, run
    return contents(home, "alone")


def test_one_process(home, alone):
    from xtts_ka.core.audio import read_audio
    from xtts_ka.sovits.train_semantic import SemanticTokenizer

    assert set(alone) == {"codes/frames.npy", "codes/index.json", "rejects.csv"}
    shelf, rejects = RaggedArray(home / "alone/codes"), read_rejects(home / "alone/rejects.csv")
    why = {Path(r.item).name: r.reason.partition(":")[0] for r in rejects}
    assert (
        set(why) == {*BAD, "half a line"}
        and all(why[n] == w for n, w in BAD.items() if w)
        and why["half a line"] == "fields"
    )
    names = [c["name"] for c in shelf.index["about"]["clips"]]
    assert names == [f"wavs/კლიპი {i}.wav" for i in range(CLIPS)] and len(names) + len(
        BAD
    ) + 1 == CLIPS + len(rejects)  # nothing is lost
    tokenizer = SemanticTokenizer.load(home / "model")
    for k in (0, 7, 29):
        assert np.array_equal(shelf[k], tokenizer.encode(*read_audio(home / "corpus" / names[k])))


def test_torchrun_gives_the_same_files(home, alone):
    torchrun = start(
        home,
        "two",
        program=(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "xtts_ka.cli",
        ),
    )
    said = torchrun.communicate()[0]
    assert torchrun.returncode == 0, said
    made = [int(n) for n in re.findall(r"(\d+) tokenised now", said)]
    assert sum(made) == READABLE and min(made) >= 12, said  # both have worked
    assert contents(home, "two") == alone


def test_jobs_of_an_array_give_the_same_files(home, alone, here):
    "A job may be over before the next one starts."

    def job(k):
        return here(
            *WORDS,
            "--out",
            "array",
            "--shard",
            "slurm",
            SLURM_ARRAY_TASK_ID=str(k),
            SLURM_ARRAY_TASK_MIN="0",
            SLURM_ARRAY_TASK_MAX="2",
            SLURM_ARRAY_TASK_COUNT="3",
        )

    for k in (2, 0):
        assert "other processes still work" in job(k).stdout and not (home / "array/codes").exists()
    assert "rejected, see" in job(1).stdout and contents(home, "array") == alone


def test_killed_and_resumed_by_two_others(home, alone, here):
    victim, folder = forked(home, "killed"), home / "killed/shards"
    deadline = time.monotonic() + 120
    while victim.poll() is None and len(list(folder.glob("[0-9a-f]*.safetensors"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL, "it was done before it could be killed"
    done = sum(len(Shard(p).rows) for p in folder.glob("[0-9a-f]*.safetensors"))
    assert 2 <= done < READABLE and not (home / "killed/codes").exists()
    said = [here(*WORDS, "--out", "killed", "--shard", f"{k}/2").stdout for k in range(2)]
    made = sum(int(s.split(" tokenised now")[0].rsplit(" ", 1)[1]) for s in said)
    assert made == READABLE - done, said  # what was there is not made again
    assert contents(home, "killed") == alone and not folder.exists()


def test_two_processes_that_do_not_know_of_each_other(home, alone):
    "No clip is tokenised twice, and either of them puts the tokens together."
    both = [forked(home, "both"), forked(home, "both")]
    said = [p.communicate()[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    made = sum(int(s.split(" tokenised now")[0].rsplit(" ", 1)[1]) for s in said)
    assert made == READABLE and contents(home, "both") == alone


def test_workers_of_one_command_give_the_same_files(home, alone, here):
    "Then nothing is left to do; a clip that changes costs its own time and no more."
    run = here(*WORDS, "--out", "workers", "--workers", "2")
    assert f"{READABLE} tokenised now" in run.stdout, run
    assert contents(home, "workers") == alone
    assert "0 tokenised now" in here(*WORDS, "--out", "workers", "--workers", "2").stdout


def test_wrong_calls(here):
    refused(here(*WORDS, "--shard", "2/2"), "--shard 2/2", "from 0/8 to 7/8")
    refused(here(*WORDS, "--shard", "slurm"), "no job of Slurm")
    refused(here(*WORDS, "--threads", "0"), "--threads 0")
    refused(here(*WORDS, "--workers", "-1"), "workers=-1")
    refused(here(*WORDS, "--ray-address", "a:1"), "needs --engine ray")
    refused(
        here("sovits", "tokenize", "--model", "corpus", "--manifest", "corpus"), "no tokenizer here"
    )
