"""`xtts-ka embed` in several processes, killed and resumed, leaves the files of one process that
nothing disturbed."""

import hashlib
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from forks import Forked

from xtts_ka.core.audio import write_audio
from xtts_ka.core.shards import Shard
from xtts_ka.speaker.store import load_matrix, load_speakers, read_index

BAD = {
    "ცარიელი.wav": (b"", "too_short"),
    "not sound.wav": (b"x" * 500, "unreadable"),
    "სიჩუმე.wav": (None, "silent"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A root with an untrained encoder (what is compared is files, not voices) and 40 clips of four
    speakers, three of them useless."""
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder

    root = tmp_path_factory.mktemp("ხმები და embeddings")
    save_encoder(root / "encoder", new_ecapa(EncoderConfig(channels=16, dim=24)))
    draw, lines = np.random.default_rng(0), ["audio_file|text|speaker_name"]
    for i in range(40):
        t = np.arange(draw.integers(3000, 60000)) / 16000
        write_audio(
            root / f"segmented/wavs/კლიპი {i}.wav",
            0.05 * np.sin(2 * np.pi * (90 + 40 * (i % 4)) * t)
            + 0.01 * draw.standard_normal(len(t)),
            16000,
        )
        lines.append(f"wavs/კლიპი {i}.wav|ა|მთქმელი {i % 4}")
    for name, (data, _) in BAD.items():
        if data is None:
            write_audio(root / "segmented/wavs" / name, np.zeros(16000), 16000)
        else:
            (root / "segmented/wavs" / name).write_bytes(data)
        lines.append(f"wavs/{name}|ა|მთქმელი 0")
    (root / "segmented/metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def call(*words):
    "`xtts-ka embed`."
    import argparse

    from xtts_ka.speaker.commands import EMBED

    parser = argparse.ArgumentParser()
    EMBED.add_arguments(parser)
    return EMBED.run(parser.parse_args(words))


def start(home, out, rank=0, world=1):
    "One process of `world`, as torchrun would start it."
    env = dict(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        XTTS_KA_ROOT=str(home),
        OMP_NUM_THREADS="1",
        XTTS_KA_PROGRESS="off",
    )
    words = [
        "--segmented_dir",
        "segmented",
        "--output_dir",
        out,
        "--metadata",
        "",
        "--model",
        "ecapa:encoder",
        "--device",
        "cpu",
        "--segment_length",
        "1",
        "--segment_overlap",
        "0.2",
        "--no_visualize",
    ]
    return Forked(call, *words, env=env, cwd=home)


def ended(*processes):
    said = [p.communicate()[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), "\n".join(said)
    return said


def contents(home, out):
    "Digests of everything that somebody may read; shards are not."
    files = [
        p
        for p in (home / out).rglob("*")
        if p.is_file() and "shards" not in p.parts and p.name != "rejects.csv"
    ]  # it counts the fields of lines, which the first run made one more
    return {
        p.relative_to(home / out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
    }


@pytest.fixture(scope="module")
def alone(home):
    said = ended(start(home, "alone"))
    print(said[0])
    return contents(home, "alone")


def test_one_process(home, alone):
    entries = {e.utt: e for e in read_index(home / "alone")}
    assert {Path(e.audio).name: e.status for e in entries.values() if e.status != "ok"} == {
        name: status for name, (_, status) in BAD.items()
    }
    vectors, speakers = load_matrix(home / "alone"), load_speakers(home / "alone")
    assert vectors.matrix.shape == (40, 24) and np.allclose(
        np.linalg.norm(vectors.matrix, axis=1), 1, atol=1e-5
    )
    assert list(speakers) == [f"მთქმელი {i}" for i in range(4)]
    for utt, v in zip(vectors.utts, vectors.matrix):
        assert np.array_equal(np.load(home / "alone" / entries[utt].npy), v)
    assert not (home / "alone/shards").exists()


def test_two_processes_give_the_same_files(home, alone):
    said = ended(*(start(home, "two", rank, 2) for rank in range(2)))
    assert any("other processes still work" not in s for s in said)
    shares = [int(s.split(" recordings,")[0].rsplit(" ", 1)[1]) for s in said]
    assert sum(shares) == 43 and min(shares) >= 15, said  # both have worked
    assert contents(home, "two") == alone


def test_killed_and_resumed_by_two(home, alone):
    victim, folder = start(home, "killed"), home / "killed/shards"
    deadline = time.monotonic() + 120
    while victim.poll() is None and len(list(folder.glob("[0-9a-f]*.safetensors"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL, "it was done before it could be killed"
    finished = [row for p in folder.glob("[0-9a-f]*.safetensors") for row in Shard(p).rows]
    done = sum("vector" in row["arrays"] for row in finished)
    assert 1 <= done < 40 and not (home / "killed/matrix.safetensors").exists()
    said = ended(*(start(home, "killed", rank, 2) for rank in range(2)))
    made = sum(int(s.split(" vectors made now")[0].rsplit(" ", 1)[1]) for s in said)
    assert made == 40 - done, said  # what was there is not made again
    assert contents(home, "killed") == alone and not folder.exists()
