"""Speech from a vocoder and its scores: the measures react as they should, folders keep their
names, nothing is made up and nothing is fetched."""

import argparse
import csv
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from xtts_ka.core.audio import read_audio, resample, rms_db, write_audio
from xtts_ka.core.errors import CheckpointError, MissingError
from xtts_ka.core.randomness import rng, seeded_step
from xtts_ka.corpus.synthetic import Synthesizer
from xtts_ka.vocoder.commands import add_arguments, main
from xtts_ka.vocoder.config import GeneratorConfig, MelConfig
from xtts_ka.vocoder.features import LogMel, griffin_lim, pad_to_hop
from xtts_ka.vocoder.measures import MEASURES, ScoredClip, measure
from xtts_ka.vocoder.score import score_folder

SENTENCES = {
    "დილა 1": ("დილა მშვიდობისა, როგორ ხარ დღეს?", "giorgi"),
    "ბებია": ("ბებიამ ხაჭაპური გამოაცხო, მერე სტუმრებს დაელოდა.", "nino"),
    "წყალი": ("წყალი ყინულზე ცივი არ არის.", "zurab"),
}
RATE = 22050


def xtts_ka_vocoder(*words):
    "A call of the command line, without its process."
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args([str(w) for w in words]))


@pytest.fixture(scope="module")
def recordings():
    return {name: Synthesizer().speak(*said).wav for name, said in SENTENCES.items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory, recordings):
    "A data set with recordings and texts, and a generator that was never trained."
    from xtts_ka.vocoder.checkpoint import save_generator
    from xtts_ka.vocoder.generators import build_generator

    root = tmp_path_factory.mktemp("ხმები და vocoder")
    (root / "data/transcriptions").mkdir(parents=True)
    for name, wav in recordings.items():
        write_audio(root / f"data/audio/{name}.wav", wav, RATE)
        (root / f"data/transcriptions/{name}.txt").write_text(SENTENCES[name][0], encoding="utf-8")
    seeded_step(0, "generator")
    save_generator(
        root / "generator",
        build_generator(
            GeneratorConfig(kind="spec", dim=32, inter=64, layers=2), MelConfig()
        ).eval(),
        step=1,
    )
    return root


# the measures


def lim(wav):
    mel = LogMel(MelConfig())(pad_to_hop(torch.from_numpy(wav), MelConfig()))
    return griffin_lim(mel, MelConfig()).numpy()[: len(wav)]


def hiss(wav, db):
    return wav + 10 ** ((rms_db(wav) - db) / 20) * rng(0, "hiss").standard_normal(len(wav)).astype(
        np.float32
    )


WAYS = {
    "identity": lambda w: w,
    "half": lambda w: w / 2,
    "noise 20": lambda w: hiss(w, 20),
    "noise 5": lambda w: hiss(w, 5),
    "low-pass": lambda w: resample(resample(w, RATE, 8000), 8000, RATE)[: len(w)],
    "late 128": lambda w: np.pad(w, (128, 0))[: len(w)],
    "late 256": lambda w: np.pad(w, (256, 0))[: len(w)],
    "griffin-lim": lim,
}


@pytest.fixture(scope="module")
def degraded(recordings):
    "Mean of each measure over the sentences, for each way of spoiling them."
    names, mel, out = (
        [m for m in MEASURES if m not in ("wvmos", "pesq", "stoi", "estoi")],
        LogMel(MelConfig()),
        {},
    )
    clips = {n: ScoredClip(w, RATE) for n, w in recordings.items()}
    for way, spoil in WAYS.items():
        rows = [
            measure(
                c,
                ScoredClip(np.ascontiguousarray(spoil(c.wav), dtype=np.float32), RATE),
                names,
                mel,
            )[0]
            for c in clips.values()
        ]
        out[way] = {m: float(np.mean([r[m] for r in rows])) for m in names}
    return out


def test_identity_is_perfect(degraded):
    for name, value in degraded["identity"].items():
        if MEASURES[name].best is not None:
            assert abs(value - MEASURES[name].best) < 1e-3, (name, value)


def test_more_noise_is_worse(degraded):
    for name in ("mel_l1", "mel_l1_matched", "mrstft", "mcd", "periodicity"):
        assert (
            degraded["identity"][name] < degraded["noise 20"][name] < degraded["noise 5"][name]
        ), name
    assert degraded["noise 5"]["vuv_f1"] < degraded["identity"]["vuv_f1"]


def test_level_and_place_are_named_not_punished(degraded):
    half, late = degraded["half"], degraded["late 256"]
    assert (
        abs(half["gain_db"] + 6.02) < 0.05
        and half["mel_l1"] > 0.3
        and half["mel_l1_matched"] < 0.05
        and half["mcd"] < 0.5
    )
    assert late["lag"] == 256 and degraded["late 128"]["lag"] == 128 and abs(late["gain_db"]) < 0.5
    assert degraded["late 128"]["mel_l1"] < late["mel_l1"]


def test_what_is_above_the_mel_counts_once(degraded):
    """A low-pass at 4 kHz ruins the spectrum, and Griffin-Lim from a mel to 8 kHz has nothing above
    it: MCD looks at neither's upper end alone."""
    assert (
        degraded["griffin-lim"]["mcd"] < degraded["low-pass"]["mcd"]
        and degraded["griffin-lim"]["mel_l1"] < degraded["low-pass"]["mel_l1"]
    )


def test_lag_of_another_phase(recordings):
    """Griffin-Lim's phases are its own; a shift is found all the same, to about a period of the
    voice."""
    from xtts_ka.vocoder.measures import find_lag

    wav = next(iter(recordings.values()))
    found = find_lag(wav, np.pad(lim(wav), (500, 0))[: len(wav)], RATE)[0]
    assert abs(found - 500) < 120, found


def test_pesq_and_stoi(recordings):
    pytest.importorskip("pesq", reason="the extra package pesq is not installed")
    pytest.importorskip("pystoi", reason="the package pystoi is not installed")
    wav = ScoredClip(recordings["ბებია"], RATE)

    def score(way):
        return measure(
            wav,
            ScoredClip(np.ascontiguousarray(WAYS[way](wav.wav), dtype=np.float32), RATE),
            ["pesq", "stoi", "estoi"],
            LogMel(MelConfig()),
        )[0]

    same, half, late, noisy = map(score, ("identity", "half", "late 256", "noise 5"))
    assert same["pesq"] > 4.6 and same["stoi"] > 0.9999 and same["estoi"] > 0.999
    assert (
        abs(half["pesq"] - same["pesq"]) < 0.01 and abs(late["pesq"] - same["pesq"]) < 0.3
    )  # it levels and aligns for itself
    assert late["stoi"] < 0.95 and noisy["pesq"] < 1.3 and noisy["stoi"] < same["stoi"]


# folders


def test_there_and_back_and_scored(home, capsys):
    """generate, then score: the recordings are found again, all names are kept, and the same call
    gives the same bytes."""
    for turn in ("first", "second"):
        out = home / turn
        assert (
            xtts_ka_vocoder(
                "generate",
                "datasets.custom_dataset.dataset_path",
                "=",
                f"'{home / 'data'}'",
                f"checkpoint_path: {home / 'generator'}",
                f"path_to_save={out}",
                "precision=float32",
            )
            == 0
        )
        assert (
            xtts_ka_vocoder(
                "score", f"path_to_score={out}", "metrics=[mel_l1,mrstft,mcd,gain_db,lag]"
            )
            == 0
        )
    assert sorted(p.stem for p in (home / "first").glob("*.wav")) == sorted(SENTENCES)
    same = [p.relative_to(home / "first") for p in (home / "first").rglob("*.wav")] + [
        Path("scores/scores.csv")
    ]
    assert all(
        (home / "first" / p).read_bytes() == (home / "second" / p).read_bytes() for p in same
    )
    rows = list(csv.DictReader((home / "first/scores/scores.csv").open(encoding="utf-8")))
    assert {(r["system"], r["file"]) for r in rows} == {
        (s, n) for s in ("generated", "recordings") for n in SENTENCES
    }
    means = json.loads((home / "first/scores/scores.json").read_text(encoding="utf-8"))["means"]
    assert (
        means["recordings"]["mel_l1"]["mean"]
        == 0
        < means["generated"]["mel_l1"]["low"]
        < means["generated"]["mel_l1"]["mean"]
        < means["generated"]["mel_l1"]["high"]
    )
    said = capsys.readouterr().out
    assert (
        "copied the recordings; to speak the transcriptions: mode=text" in said
        and (home / "first/scores/scores.png").stat().st_size > 5000
    )


def test_lengths_are_exact(home, recordings):
    xtts_ka_vocoder(
        "generate",
        f"dataset_path={home / 'data'}",
        "checkpoint_path=griffin-lim",
        f"path_to_save={home / 'limit'}",
    )
    assert {n: len(read_audio(home / f"limit/{n}.wav")[0]) for n in SENTENCES} == {
        n: len(w) for n, w in recordings.items()
    }


def test_texts_with_their_own_rhythm(home):
    """Another voice has another rhythm: frame-by-frame measures are left out with a reason, the
    others are there."""
    out = home / "spoken"
    assert (
        xtts_ka_vocoder(
            "generate",
            f"dataset_path={home / 'data'}",
            "checkpoint_path=griffin-lim",
            f"path_to_save={out}",
            "mode=text",
            "voice=tamar",
        )
        == 0
    )
    scores = score_folder(out, metrics=["mel_l1", "mcd_dtw", "gain_db"])
    assert scores.reference.endswith("data/audio") and set(scores.files["generated"]) == set(
        SENTENCES
    )
    for name, row in scores.files["generated"].items():
        assert (
            row["mel_l1"] is None
            and row["mcd_dtw"] > 0
            and scores.notes[name] == ["another rhythm: only mcd_dtw, gain_db and wvmos"]
        )
    assert (
        scores.summary["generated"]["mel_l1"].missing == 3
        and scores.summary["recordings"]["mcd_dtw"].mean == 0
    )


def test_wrong_calls(home, tmp_path):
    def call(*words):
        return xtts_ka_vocoder(
            "generate", f"dataset_path={home / 'data'}", f"path_to_save={tmp_path / 'out'}", *words
        )

    for words, error, part in [
        (["checkpoint_path=nowhere.pt"], (MissingError, CheckpointError), "nowhere.pt"),
        ([f"checkpoint_path={home / 'data/audio/ბებია.wav'}"], CheckpointError, "ბებია.wav"),
        ([f"checkpoint_path={home / 'generator'}", "mel.eps=1e-6"], CheckpointError, "eps"),
        (["checkpoint_path=griffin-lim", "mode=mel"], MissingError, "mels/"),
        (
            ["checkpoint_path=griffin-lim", "mode=text", "acoustic=nowhere"],
            MissingError,
            "config.json",
        ),
    ]:
        with pytest.raises(error, match=part):
            call(*words)
    assert not (tmp_path / "out").exists()


def test_a_hard_sentence_cannot_be_left_out(home, recordings):
    some = home / "some"
    for name in list(recordings)[:2]:
        write_audio(some / f"{name}.wav", recordings[name], RATE)
    (some / "broken.wav").write_bytes(b"RIFF")
    assert (
        xtts_ka_vocoder(
            "score", f"path_to_score={some}", f"reference={home / 'data/audio'}", "metrics=mel_l1"
        )
        == 1
    )
    assert {
        r.split("|")[3]: r.split("|")[4]
        for r in (some / "scores/rejects.csv").read_text(encoding="utf-8").splitlines()[1:]
    } == {"broken": "no recording of this name", "წყალი": "not generated"}


# WV-MOS, and nothing from the network


def small_wvmos(path):
    from transformers import Wav2Vec2Config

    from xtts_ka.vocoder.wvmos import WvMos

    seeded_step(0, "wvmos")
    model = WvMos(
        Wav2Vec2Config(
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=64,
            conv_dim=[32] * 7,
        )
    )
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}, path)
    return path


def test_no_weights_no_score(home, tmp_path, monkeypatch):
    monkeypatch.setenv("XTTS_KA_WVMOS", str(tmp_path / "wv_mos.ckpt"))
    with pytest.raises(MissingError, match="wv_mos.ckpt.*zenodo.org"):
        score_folder(home / "data/audio", "none", metrics=["wvmos"])
    scores = score_folder(home / "data/audio", home / "data/audio")
    assert (
        "wvmos" not in scores.names
        and "zenodo.org" in scores.unavailable["wvmos"]
        and "mel_l1" in scores.names
    )


def test_ground_truth_beside_and_no_network(home, tmp_path, monkeypatch):
    def refused(*a, **k):
        raise AssertionError("the network was called")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setenv("XTTS_KA_WVMOS", str(small_wvmos(tmp_path / "wv_mos.ckpt")))
    scores = score_folder(home / "data/audio", home / "data/audio", metrics=["wvmos", "mel_l1"])
    assert (
        scores.summary["generated"]["wvmos"].mean == scores.summary["recordings"]["wvmos"].mean
        and len(scores.about["wvmos_sha256"]) == 64
    )
    alone = score_folder(home / "data/audio", "none")
    assert (
        alone.names == ["wvmos"]
        and "recordings" not in alone.summary
        and alone.unavailable["pesq"] == "needs recordings: reference=DIR"
    )


# real speech


def test_griffin_lim_on_recordings(tmp_path):
    "The yardstick on LJSpeech, where it lies beside the project."
    data = Path(__file__).resolve().parents[2] / "shared/data/ljspeech_mini/wavs"
    if not data.is_dir():
        pytest.skip("no ../shared/data/ljspeech_mini")
    for path in sorted(data.iterdir())[:2]:
        write_audio(tmp_path / f"data/audio/{path.stem}.wav", read_audio(path)[0][: 3 * RATE], RATE)
    xtts_ka_vocoder(
        "generate",
        f"dataset_path={tmp_path / 'data'}",
        "checkpoint_path=griffin-lim",
        f"path_to_save={tmp_path / 'out'}",
    )
    s = score_folder(
        tmp_path / "out", metrics=["mel_l1", "mrstft", "mcd", "f0_rmse_cents", "vuv_f1", "lag"]
    ).summary["generated"]
    assert (
        s["mel_l1"].mean < 0.3
        and s["mcd"].mean < 8
        and s["vuv_f1"].mean > 0.85
        and s["f0_rmse_cents"].mean < 300
    )
