"""From an empty folder to spoken Georgian, end to end: what the smoke pipeline leaves behind, and
what can be done with it.

One small run is made for all tests here and in test_kill.py, in a copy of the repository."""

import json
import math
import re
from pathlib import Path
from urllib.parse import unquote

import house
import pytest
import soundfile
from smoke import RUN, files
from test_report import pages

pytestmark = pytest.mark.timeout(600)  # the first test waits for the run
NAMES = [
    "corpus",
    "segments",
    "speaker_encoder",
    "embeddings",
    "phonemes",
    "language",
    "xtts_init",
    "full_pretrain",
    "vocoder",
    "sovits2",
    "evaluate",
]
TEXT = "გამარჯობა, როგორ ხარ?"


def spoken(home):
    "Rows of spoken.tsv."
    return [
        line.split("\t")
        for line in (home.dir / "spoken.tsv").read_text(encoding="utf-8").splitlines()
    ]


# ---- the run


def test_every_stage_is_done(smoke):
    stages = smoke.stages()
    assert list(stages) == NAMES and {s["status"] for s in stages.values()} == {"done"}
    assert all(
        s["attempt"] == 1 and s["cpu_seconds"] > 0 and s["metrics"] and s["error"] is None
        for s in stages.values()
    )
    assert [n.split("_", 1)[1] for n in files(smoke.dir / "notebooks")] == [
        f"{n}.ipynb" for n in NAMES
    ]
    assert (
        f"report: outputs/{RUN}/report/index.html" in smoke.first.stdout
        and f"spoken sentences: outputs/{RUN}/spoken.tsv" in smoke.first.stdout
    )
    print(
        f"\nsmoke run: {smoke.first.seconds:.0f} s, CPU of the stages"
        f" {sum(s['cpu_seconds'] for s in stages.values()):.0f} s"
    )


def test_metrics_are_plausible(smoke):
    of = {n: s["metrics"] for n, s in smoke.stages().items()}
    assert (
        of["corpus"]["clips"] == of["segments"]["clips"] == of["xtts_init"]["clips"]
        and of["corpus"]["rejected"] == 0
    )
    assert (
        of["corpus"]["speakers"]
        == of["xtts_init"]["speakers"]
        == of["full_pretrain"]["speakers"]
        == 2
    )
    assert of["xtts_init"]["codes used"] > 8 and of["full_pretrain"][
        "GPT loss, nats a code"
    ] < math.log(66)  # of 64 codes, START and STOP, who knows nothing


@pytest.mark.parametrize(
    "training", ["xtts_init/dvae", "full_pretrain/gpt", "full_pretrain/decoder"]
)
def test_every_loss_falls(smoke, training):
    from xtts_ka.core.files import read_jsonl

    losses = [
        r["loss/main"]
        for r in read_jsonl(smoke.dir / training / "metrics.jsonl")
        if r["kind"] == "train"
    ]
    assert len(losses) >= 4 and min(losses[2:]) < 0.97 * losses[0], losses


def test_report_is_whole(smoke):
    report = smoke.dir / "report"
    found = pages(report / "index.html")
    assert set(found) == {"index.html", *(f"{n}.html" for n in NAMES)}
    for name, page in found.items():
        for address in page.addresses:
            target = (report / unquote(address.split("#")[0])).resolve()
            assert (
                not re.match(r"[a-z]+:|//|/", address)
                and target.is_relative_to(report.resolve())
                and target.exists()
            ), (name, address)
    assert found["index.html"].tags.count("audio") >= 20
    for name in NAMES:
        assert "img" in found[f"{name}.html"].tags, f"{name}.html has no plot"
    for name in ("corpus", "segments", "evaluate"):
        assert "audio" in found[f"{name}.html"].tags, f"{name}.html has no player"
    for path in report.glob("media/*.wav"):
        assert soundfile.info(path).frames > 0


def test_spoken_sentences(smoke):
    from xtts_ka.core.manifest import SCRIPTS, read_manifest
    from xtts_ka.text.normalize import normalize

    rows, manifest = spoken(smoke), read_manifest(smoke.dir / "segments", check_audio=False)
    trained = {r.text for r in manifest.rows if r.split != "test"}
    assert (
        len(rows) >= 20
        and len({path for path, *_ in rows}) == len(rows)
        and f"{len(rows)} spoken sentences" in smoke.first.stdout
    )
    for path, text, speaker, by in rows:
        wav, rate = soundfile.read(smoke.dir / path)
        assert path.startswith("evaluate/") and (rate, wav.ndim) == (24000, 1) and len(wav) > 0
        assert (
            SCRIPTS["georgian"].search(text)
            and normalize(text).text == text
            and text not in trained
        )
        assert speaker in manifest.speakers and by == "xtts"


def test_everyday_texts_are_spoken_by_every_path(smoke):
    """One text of each kind by the recordings' voices, XTTS and GPT-SoVITS2; the figures come first
    in the report and lie flat in metrics.json."""
    from xtts_ka.evaluate.everyday_scores import summarise
    from xtts_ka.evaluate.everyday_texts import KINDS, load_everyday

    held = json.loads((smoke.dir / "evaluate/everyday.json").read_text(encoding="utf-8"))
    rows, speakers = held["rows"], {r["speaker"] for r in held["rows"]}
    paths = list(dict.fromkeys(r["path"] for r in rows))
    assert (
        paths[0] == "recording"
        and {"XTTS", "sovits2"} <= set(paths)
        and len(rows) == len(KINDS) * len(paths)
        and len(speakers) == 2
    )
    for path in paths:
        assert [(r["kind"], r["text"]) for r in rows if r["path"] == path] == [
            (t.kind, t.text) for t in load_everyday(len(KINDS))
        ]
    for r in rows:
        assert soundfile.info(smoke.dir / r["file"]).frames > 0 and 0 <= r["wrong"] and r["of"] > 0
    assert held["summary"] == summarise(rows) and held["about"]["texts in training"] == 0
    metrics = json.loads((smoke.dir / "evaluate/metrics.json").read_text(encoding="utf-8"))
    assert (
        metrics["everyday texts"] == len(KINDS)
        and metrics["everyday CER, recording"] < 0.25 < metrics["everyday CER, XTTS"]
    )
    page = (smoke.dir / "report/index.html").read_text(encoding="utf-8")
    assert 0 < page.index("Everyday texts") < page.index("Spoken sentences")


def test_second_call_runs_nothing(smoke):
    free = {"config.yaml", ".lock", ".digests.json", "pretrain_progress.json"}

    def marks():
        return {n: (smoke.dir / n).stat().st_mtime_ns for n in files(smoke.dir) if n not in free}

    start = min(smoke.call("--version").seconds for _ in range(2))
    before, stages = marks(), smoke.stages()
    again = smoke.run()
    assert (
        again.returncode == 0
        and again.stdout.count("up to date") == len(NAMES)
        and "▶" not in again.stdout
    ), again.stdout + again.stderr
    assert marks() == before and smoke.stages() == stages
    assert again.seconds - start < 10, f"{again.seconds:.1f} s, of which start-up {start:.1f} s"
    print(f"\nsecond call: {again.seconds:.1f} s, of which start-up {start:.2f} s")


def test_a_single_stage_can_be_asked_for(smoke):
    run = smoke.run("--only", "evaluate")
    assert (
        run.returncode == 0
        and "evaluate" in run.stdout
        and "up to date" in run.stdout
        and "warning" not in run.stdout
    )


def test_no_file_could_carry_code(smoke):
    assert house.walk_outputs(smoke.dir) == []
    kinds = {
        Path(n).suffix
        for n in (
            files(smoke.dir / "full_pretrain")
            + files(smoke.dir / "xtts")
            + files(smoke.dir / "xtts_init")
        )
    }
    assert kinds == {
        ".safetensors",
        ".pt",
        ".pth",
        ".npy",
        ".json",
        ".jsonl",
        ".md",
        ".csv",
        ".wav",
        ".i16",
        "",
    }  # "": the lock of a training; .wav and .i16: sound of guests
    assert not [n for n in files(smoke.dir) if ".tmp-" in n]


# ---- the export, in the hands of others


def greedy(stock, cond, ids, codes_per_id=2):
    """Our greedy codes of a text, after a check that coqui's are the same, and that its second pass
    has our latents."""
    import torch

    from xtts_ka.xtts.config import DecodeConfig
    from xtts_ka.xtts.sampling import decode_codes

    gpt, text = stock.gpt, torch.tensor([ids])
    ours = decode_codes(gpt, cond, ids, DecodeConfig(temperature=0, max_codes_per_id=codes_per_id))
    full = torch.cat([ours.codes, torch.tensor([gpt.stop_audio_token])])[None]
    with torch.inference_mode():
        theirs = gpt.generate(
            cond,
            text,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            num_return_sequences=1,
            output_attentions=False,
            max_new_tokens=full.shape[1] - (not ours.stopped),
        )[0]
        second = gpt(
            text,
            torch.tensor([len(ids)]),
            full,
            torch.tensor([full.shape[1] * 1024]),
            cond_latents=cond,
            return_latent=True,
        )[0]
    assert theirs[theirs < gpt.start_audio_token].tolist() == ours.codes.tolist()
    assert (second[: len(ours.codes)] - ours.latents).abs().max() < 1e-4
    return ours


def test_unmodified_coqui_reads_the_export_and_chooses_the_same_codes(smoke):
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    from xtts_ka.xtts.vocabulary import Vocabulary

    folder, config = smoke.dir / "xtts", XttsConfig()
    config.load_json(str(folder / "config.json"))
    stock = Xtts(config)
    stock.load_checkpoint(config, checkpoint_dir=str(folder), eval=True)
    vocabulary, texts = (
        Vocabulary.load(folder / "vocab.json"),
        [text for _, text, *_ in spoken(smoke)],
    )
    assert config.languages[0] == "ka" and vocabulary.language == "ka"
    for text in texts:
        assert stock.tokenizer.encode(text, "en") == vocabulary.encode(
            text
        )  # an unmodified client says `en`; vocab.json routes it to [ka]
    voices, head = stock.speaker_manager.speakers, stock.gpt.mel_head
    for (_name, voice), text in zip(voices.items(), texts):
        first = greedy(stock, voice["gpt_cond_latent"], vocabulary.encode(text))
    # A model trained for seconds says one code for ever. Without its average preference it says
    # many, and equality says more.
    head.bias.data.copy_(-(head.weight.data @ first.latents.mean(0)))
    found = [
        greedy(stock, voice["gpt_cond_latent"], vocabulary.encode(text)).codes.tolist()
        for voice, text in zip([*voices.values()] * 2, texts)
    ]
    said = {c for codes in found for c in codes}
    print(
        f"\ngreedy codes equal to coqui's in {len(found)} sentences of {[len(c) for c in found]}"
        f" codes, {len(said)} different"
    )
    assert len(found) == 4 and len(said) > 4


def test_the_unmodified_tts_command_speaks_georgian(smoke):
    folder, out = smoke.dir / "xtts", smoke.root / "tts.wav"
    speaker = spoken(smoke)[0][2]
    run = smoke.call(
        "--model_path",
        folder,
        "--config_path",
        folder / "config.json",
        "--speaker_idx",
        speaker,
        "--language_idx",
        "en",
        "--text",
        "გამარჯობა.",
        "--out_path",
        out,
        program="tts",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    wav, rate = soundfile.read(out)
    assert rate == 24000 and len(wav) > 2400 and abs(wav).max() > 1e-4
    print(f"\ntts: {run.seconds:.1f} s for {len(wav) / rate:.1f} s of sound")


# ---- xtts-ka speak


@pytest.fixture
def say(smoke, capsys):
    "`xtts-ka speak` in this process: importing coqui-tts once is enough."
    from xtts_ka.pipeline.cli import main

    def call(text, **options):
        given = {"checkpoint": smoke.dir / "xtts", "out": smoke.root / "say.wav"} | options
        code = main(
            [
                "speak",
                text,
                "--allow-incomplete",
                *(str(w) for k, v in given.items() if v is not None for w in (f"--{k}", v)),
            ]
        )
        return code, *capsys.readouterr()

    return call


def test_speak(smoke, say, tmp_path):
    speaker, out = spoken(smoke)[0][2], tmp_path / "new" / "hello.wav"
    code, said, err = say("კი, მოდი!", speaker=speaker, out=out, temperature=0.7, seed=3)
    wav, rate = soundfile.read(out)
    assert code == 0 and rate == 24000 and len(wav) > 2400 and abs(wav).max() > 1e-4
    last = said.strip().splitlines()[-1]
    assert (
        str(out) in last
        and f"speaker {speaker}" in last
        and "კი, მოდი!" in last
        and f"{len(wav) / rate:.2f} s" in last
    )
    assert not [line for line in err.splitlines() if not line.startswith("[transformers]")], err


def one_line(found, *words):
    "Exit status 2 and a single line that says what is wrong."
    code, _, err = found
    lines = [line for line in err.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("[transformers]")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("xtts-ka: "), err
    for w in words:
        assert w in lines[0], f"{w!r} is not in {lines[0]}"


def test_speak_says_what_is_wrong(smoke, say, tmp_path):
    one_line(say(TEXT, checkpoint=tmp_path / "none"), "none", "no such folder", "make run")
    one_line(say(TEXT, checkpoint=tmp_path), "neither a model (model.pth", "nor a run")
    one_line(say(TEXT, checkpoint=Path(__file__)), "test_smoke.py", "folder")
    one_line(say(TEXT, speaker="nobody"), "nobody", "has giorgi, nino")
    one_line(say("你好 🙂"), "nothing to speak", "你好")
    one_line(say(" "), "the text is empty")
    one_line(say(TEXT, language="xx"), "xx", "ka")
    one_line(say(TEXT, temperature=-1), "temperature", "-1")
    one_line(say(TEXT, reference=tmp_path / "none.wav"), "none.wav", "no such file")


def test_speak_says_that_it_cannot_write(say, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.wav").mkdir()
    one_line(say(TEXT, out=tmp_path / "file/a.wav"), "--out", "file/a.wav")
    one_line(say(TEXT, out=tmp_path / "folder.wav"), "--out", "folder.wav")
    one_line(say("კი.", out="/proc/nowhere/a.wav"), "--out", "/proc/nowhere/a.wav")
    one_line(say(TEXT, out=tmp_path / "a.mid"), "--out", "a.mid", ".wav, .flac, .ogg, .mp3")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.wav"] and not list(
        (tmp_path / "folder.wav").iterdir()
    )


def test_a_damaged_export_is_refused(smoke, say, tmp_path):
    import shutil

    shutil.copytree(smoke.dir / "xtts", tmp_path / "x")
    raw = bytearray((tmp_path / "x/speakers_xtts.pth").read_bytes())
    raw[500] ^= 1
    (tmp_path / "x/speakers_xtts.pth").write_bytes(raw)
    one_line(say(TEXT, checkpoint=tmp_path / "x"), "speakers_xtts.pth", "damaged")
