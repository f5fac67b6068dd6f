"""How alike the voices of an export and of recordings are that nothing in a run has heard, as
unmodified coqui-tts clones them.

    python bench/clone.py outputs/before outputs/after [--json FILE]

The voices are timbres of espeak-ng that neither the corpus nor the guests nor the speaker encoder
have (those of the recogniser). coqui-tts
takes latents and vector of three recordings of each (`get_conditioning_latents`) and speaks three
sentences (`inference`). Likeness is the cosine of a clip's vector to the mean vector of the
recordings, by the scorers `run:` of the last run named and, independent of all runs, `resemblyzer`
where it is installed. `own` are other recordings of the voice, `others` those of the other voices:
no clone can be expected above the one, and one without any ear lies near the other. With two runs
the last line says how much of the way from the first to `own` the second goes.

    python bench/clone.py guests outputs/demo [--share 0.5] [--steps N] [--parts 32] [--json FILE]

trains the run's acoustic network once more, with guests as that share of its crops
(`full_pretrain.acoustic.guests`), and compares what `speak --reference` says by both; with N steps
instead of the run's own number, and with so many components of the vectors.

    python bench/clone.py pitches outputs/demo [--steps 2000] [--json FILE]

trains the run's waveform decoder anew, with guests as three quarters of its crops and oscillators
that each voice's pitch opens (`full_pretrain.decoder.pitches`), and compares the clones of both in
coqui-tts. The training lies in `outputs/demo_pitches` and goes on where it was stopped.

    python bench/clone.py voices outputs/demo [--steps 9000] [--json FILE]

does so with fewer residual blocks, 64 components and the speaker consistency loss
(`full_pretrain.decoder.speaker_weight`), in `outputs/demo_voices`; an hour and a half on one core.

    python bench/clone.py parts outputs/demo [--json FILE]

says what holds the clones of a run: each row swaps one part of the way from a recording to a clone
for what the voice's own recording gives, by our own decoding. *Excitation* and *envelope* are the
fine and the coarse structure of each frame's spectrum (30 cepstral coefficients): pitch and tone,
and formants.

    python bench/clone.py known outputs/many [--json FILE]

says how alike the stored voices of a run with `corpus.further` are to recordings of theirs, which
the run has learned from: no clone can be nearer.

coqui-tts reads files by torchcodec, which needs FFmpeg; here soundfile reads them, and nothing else
of it is changed."""

import argparse
import functools
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XTTS_KA_PROGRESS"] = "off"
import numpy as np
import torch
import yaml
from decoder import crossed

from xtts_ka.core.audio import read_audio, resample, set_level, write_audio
from xtts_ka.core.errors import MissingError
from xtts_ka.core.files import write_json
from xtts_ka.core.randomness import seeded_step
from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer
from xtts_ka.evaluate.recogniser import TRAINING_VOICES
from xtts_ka.evaluate.scorers import open_scorer, score_wavs
from xtts_ka.speaker.encoders import SpeakerEncoder, load_encoder
from xtts_ka.xtts.config import DecodeConfig
from xtts_ka.xtts.export import load_stock
from xtts_ka.xtts.features import OUTPUT_SAMPLE_RATE
from xtts_ka.xtts.waveform_decoder import widths

VOICES = ("steph", "alicia", "victor", "robert")
SIX = (*VOICES, "linda", "marco")  # Of `parts`
HEARD = (
    "ჩემი მეგობარი ხვალ საღამოს ჩამოვა ქალაქში და ბევრ ამბავს მოგვიყვება.",
    "მთაში ცივი ქარი ქროდა, მაგრამ ცა სუფთა იყო და ვარსკვლავები ანათებდა.",
    "ბავშვები ეზოში თამაშობდნენ და ხმამაღლა იცინოდნენ.",
)
SAID = (
    "დილით ადრე ავდექი და ბაზარში წავედი.",
    "გუშინ ძველი წიგნი ვიპოვე სახლში.",
    "დღეს კარგი ამინდია.",
)
EAR_RATE = 16000  # Hz


def record(folder, names):
    "Recordings: voice -> (files to clone from, other files)."
    synthesizer, out = Synthesizer(), {}
    for name in names:
        out[name] = [], []
        for kind, texts in enumerate((HEARD, SAID)):
            for k, text in enumerate(texts):
                path = Path(folder) / name / f"{('heard', 'own')[kind]}-{k}.wav"
                write_audio(
                    path,
                    set_level(synthesizer.speak(text, TRAINING_VOICES[f"ear-{name}"]).wav),
                    SAMPLE_RATE,
                )
                out[name][kind].append(path)
    return out


def listeners(run):
    "Name -> (waveforms at 16 kHz -> vectors)."
    out = {"the encoder of the run": vectors_by(open_scorer("run", where=str(run)))}
    try:
        out["Resemblyzer"] = vectors_by(open_scorer("resemblyzer"))
    except MissingError as e:
        print(f"one judge fewer, which no run has trained: {e}")
    return out


def vectors_by(judge):
    "A function from waveforms at 16 kHz to vectors; a clip without one stops the measurement."

    def vectors(wavs):
        found = score_wavs(judge, wavs, EAR_RATE)
        if faults := [r["error"] for r in found if "vector" not in r]:
            raise SystemExit(f"{judge.card.name}: {len(faults)} clips fail, first: {faults[0]}")
        return np.array([r["vector"] for r in found])

    return vectors


@torch.inference_mode()
def clones(export, recordings):
    "Voice -> spoken sentences at 16 kHz, by coqui-tts."
    import TTS.tts.models.xtts as coqui

    coqui.load_audio = lambda path, rate: torch.from_numpy(read_audio(path, rate)[0])[None]
    stock, cfg, out = load_stock(export), DecodeConfig(), {}
    options = dict(
        temperature=cfg.temperature,
        top_k=cfg.top_k,
        top_p=cfg.top_p,
        repetition_penalty=cfg.repetition_penalty,
    )
    for name, (heard, _) in recordings.items():
        latents, vector = stock.get_conditioning_latents([str(p) for p in heard])
        out[name] = []
        for k, text in enumerate(SAID):
            seeded_step(1, "clone", k)
            wav = stock.inference(text, "en", latents, vector, **options)["wav"]
            out[name].append(resample(np.asarray(wav, np.float32), OUTPUT_SAMPLE_RATE, EAR_RATE))
    return out


@torch.inference_mode()
def our_clones(export, recordings, acoustic=None):
    """Voice -> spoken sentences at 16 kHz, as `xtts-ka speak --reference` says them by the vocoder;
    with another acoustic network in place of the export's."""
    from xtts_ka.xtts.infer import KaXtts, condition
    from xtts_ka.xtts.vocode import open_way

    model, out = KaXtts(export, precision="float32"), {}
    way = open_way(export, model.xtts.mel_stats, "vocoder")
    way.acoustic = acoustic or way.acoustic
    for name, (heard, _) in recordings.items():
        waves = [torch.from_numpy(read_audio(p, SAMPLE_RATE)[0]) for p in heard]
        cond, vector = condition(model.xtts, waves)
        out[name] = []
        for _, takes in model.plan_takes(list(SAID), (cond, vector)):
            wav = np.concatenate([way.say(x, vector) for x in takes])
            out[name].append(resample(wav, OUTPUT_SAMPLE_RATE, EAR_RATE))
    return out


def trained_again(run, out, without, change):
    "The run's stage full_pretrain in another folder, with other options, up to the latents."
    from xtts_ka.core.config import build
    from xtts_ka.xtts.config import PretrainConfig
    from xtts_ka.xtts.stage import Pretrain

    options = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    cfg = build(PretrainConfig, options["full_pretrain"])
    change(cfg)
    if not out.exists():  # The run itself stays as it is
        shutil.copytree(run / "full_pretrain", out, ignore=shutil.ignore_patterns(without))
    stage = Pretrain(cfg, run / "segments", run / "xtts_init", out, options["seed"])
    stage.gpt()
    stage.compute_speaker_latents()
    stage.latents()
    return stage


def told_by_guests(run, share, steps, parts):
    "The run's acoustic network, trained anew with guests; steps None: as many as the run's."

    def change(cfg):
        cfg.acoustic.guests, cfg.acoustic.voice_parts = share, parts
        cfg.acoustic.loop.steps = steps or cfg.acoustic.loop.steps

    with tempfile.TemporaryDirectory() as folder:
        stage = trained_again(run, Path(folder) / "full_pretrain", "acoustic", change)
        stage.acoustic()
        return stage.acoustic_net


WAYS = {"pitches": 2000, "voices": 9000}  # Steps of the decoder


def opened_by_pitch(run, way, steps):
    "Export of the run with a decoder that learned from guests and begins with their pitches."
    home = run.with_name(f"{run.name}_{way}")

    def change(cfg):
        cfg.guests.share, d = 0.75, cfg.decoder
        d.carriers, d.pitches, d.pitch_weight, d.voice_parts = 0, 36, 2.0, 32
        if way == "voices":
            d.speaker_weight, d.kernels, d.voice_parts = 4.0, [[7]] * 4, 64
        d.channels, d.loop.steps = [512, *widths(d.channels)[1:]], steps or WAYS[way]
        d.loop.save_every = d.loop.validate_every = 250

    stage = trained_again(run, home / "full_pretrain", "decoder", change)
    stage.acoustic()
    stage.decoder()
    return stage.export(home / "xtts")


def lost_letters(spoken):
    "Share of the letters that the recogniser does not hear."
    from xtts_ka.evaluate.recogniser import Recogniser, error_rate

    ear = Recogniser()
    pairs = [(t, ear.transcribe(w, EAR_RATE)) for q in spoken.values() for t, w in zip(SAID, q)]
    return error_rate(pairs, draws=0)[0]


def likeness(listen, heard, wavs):
    "Mean cosine of clips to the mean vector of what was heard."
    centre = listen(heard).mean(0)
    vectors = listen(wavs)
    return float(
        np.mean(vectors @ centre / np.linalg.norm(vectors, axis=1) / np.linalg.norm(centre))
    )


def by_coqui(runs, recordings):
    return {run.name: clones(run / "xtts", recordings) for run in runs}


def by_pitch(runs, recordings, way, steps):
    "A run's clones, and those by a decoder of so many steps that begins with pitches."
    export = opened_by_pitch(runs[0], way, steps)
    return by_coqui(runs, recordings) | {"by pitch": clones(export, recordings)}


def by_guests(runs, recordings, share, steps, parts):
    "What a run says by itself, without and with guests."
    export, told = runs[0] / "xtts", told_by_guests(runs[0], share, steps, parts)
    return {
        runs[0].name: our_clones(export, recordings),
        "with guests": our_clones(export, recordings, told),
    }


def measured(runs, names=VOICES, speak=by_coqui):
    "listener -> row -> voice -> likeness, of what `speak` makes of the runs and the recordings."
    with tempfile.TemporaryDirectory() as folder:
        recordings = record(folder, names)
        spoken = speak(runs, recordings)
        sound = {
            name: [[read_audio(p, EAR_RATE)[0] for p in files] for files in pair]
            for name, pair in recordings.items()
        }
    lost = {name: lost_letters(said) for name, said in spoken.items()}
    for name, share_lost in lost.items():
        print(f"{name}: {100 * share_lost:.1f} % of the letters of its clones are lost")
    spoken["own"] = {name: own for name, (_, own) in sound.items()}
    spoken["others"] = {
        name: [own[k] for k in range(len(SAID)) for n, (_, own) in sound.items() if n != name]
        for name in names
    }
    return lost, {
        judge: {
            row: {name: likeness(listen, sound[name][0], wavs[name]) for name in names}
            for row, wavs in spoken.items()
        }
        for judge, listen in listeners(runs[-1]).items()
    }


def table(judge, rows, runs):
    """Print the likeness of every voice; returns the share of the way that the last run goes, or
    None."""
    names, mean = (
        list(next(iter(rows.values()))),
        lambda row: float(np.mean(list(rows[row].values()))),
    )
    wide = max(9, *(len(n) + 2 for n in names))
    print(f"\n{judge:24}" + "".join(f"{n:>{wide}}" for n in names) + f"{'mean':>9}")
    for row, values in rows.items():
        each = "".join(f"{v:{wide}.3f}" for v in values.values())
        print(f"{row:24}" + each + f"{mean(row):9.3f}")
    if len(runs) < 2:
        return None
    first, last = mean(runs[0]), mean(runs[-1])
    way = (last - first) / (mean("own") - first)
    print(
        f"{runs[-1]} goes {100 * way:.0f} % of the way from {runs[0]} to the voices' own recordings"
    )
    return way


# What holds a clone


class Parts:
    "A run's chain from a recording to a clone, each part exchangeable."

    def __init__(self, run):
        from xtts_ka.vocoder.infer import open_vocoder
        from xtts_ka.xtts.distil import orthonormal
        from xtts_ka.xtts.export import load_dvae
        from xtts_ka.xtts.infer import KaXtts

        self.model = KaXtts(run / "xtts", precision="float32")
        self.dvae, self.stats = load_dvae(run / "xtts"), self.model.xtts.mel_stats
        self.vocoder = open_vocoder(run / "vocoder")
        self.teacher = SpeakerEncoder(load_encoder(run / "speaker_encoder"), "ecapa", "cpu")
        self.up = orthonormal(self.teacher.dim)  # [512, dim]

    def taught(self, heard):  # [T] at 22,050 Hz each -> [1, 512, 1]
        "The vector of the encoder that the export's has learned from."
        vectors = self.teacher.embed(
            [resample(w, SAMPLE_RATE, self.teacher.sample_rate) for w in heard]
        )
        mean = torch.from_numpy(vectors).float().mean(0) @ self.up.T
        return (mean / mean.norm())[None, :, None]

    def said(self, text, voice):  # [n, D]
        "Latents of the codes that the GPT chooses."
        [(_, takes)] = self.model.plan_takes([text], voice)
        return torch.cat([t.latents for t in takes])

    def mel(self, wav):  # [T] at 22,050 Hz -> [80, 4 n]
        from xtts_ka.xtts.features import code_mel

        return code_mel(torch.from_numpy(wav)) / self.stats[:, None]

    def told(self, text, wav, cond):  # [n, D]
        "Latents of a recording's own codes."
        from xtts_ka.xtts.dvae import encode
        from xtts_ka.xtts.sampling import teacher_latents

        codes = encode(self.dvae, self.mel(wav))
        ids = self.model.vocabulary.encode(self.model.plan(text).pieces[0].text)
        return teacher_latents(self.model.gpt, cond, ids, codes)

    def sound(self, latents, vector):  # [T] at 24 kHz
        return np.asarray(self.model.sound(latents, vector, 1.0))

    def copy(self, wav, coded: bool):  # [T] at 24 kHz
        "A recording by the vocoder, from its mel or from that of its codes."
        from xtts_ka.evaluate.chains import hifi_mel
        from xtts_ka.vocoder.features import LogMel
        from xtts_ka.xtts.dvae import decode, encode

        if coded:
            mel = decode(self.dvae, encode(self.dvae, self.mel(wav))) * self.stats[:, None]
            mel = hifi_mel(mel, self.vocoder.mel)
        else:
            mel = LogMel(self.vocoder.mel)(torch.from_numpy(wav))
        made = self.vocoder.generate(mel).numpy()
        return resample(made, SAMPLE_RATE, OUTPUT_SAMPLE_RATE)

    @torch.inference_mode()
    def ways(self, heard, own, stored) -> dict:  # Row -> [T] waveforms at 24 kHz
        "Three sentences of one voice; `stored` is the run's voice of the same sex."
        from xtts_ka.xtts.infer import condition

        cond, vector = condition(self.model.xtts, [torch.from_numpy(w) for w in heard])
        taught, mine = self.taught(heard), self.model.voice(stored)
        free = [self.said(t, (cond, vector)) for t in SAID]
        told = [self.told(t, w, cond) for t, w in zip(SAID, own)]
        pace = [self.sound(z, vector) for z in told]
        wide = [resample(w, SAMPLE_RATE, OUTPUT_SAMPLE_RATE) for w in own]
        return {
            "the run's own voice": [self.sound(self.said(t, mine), mine[1]) for t in SAID],
            "clone": [self.sound(z, vector) for z in free],
            "clone, the teacher's vector": [self.sound(z, taught) for z in free],
            "the recording's codes": pace,
            "the recording's codes, the teacher's vector": [self.sound(z, taught) for z in told],
            "... and the recording's envelope": [crossed(a, b) for a, b in zip(pace, wide)],
            "... and the recording's excitation": [crossed(b, a) for a, b in zip(pace, wide)],
            "the recording's codes by the vocoder": [self.copy(w, True) for w in own],
            "the recording by the vocoder": [self.copy(w, False) for w in own],
            "own": wide,
        }


def measured_known(run, count=6):
    "listener -> row -> voice -> likeness, of further voices of the run's corpus."
    from xtts_ka.corpus.voices import drawn_voice
    from xtts_ka.xtts.infer import KaXtts

    model, synthesizer, heard = KaXtts(run / "xtts", precision="float32"), Synthesizer(), {}
    seed = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["seed"]
    names = [n for n in model.speakers if n.startswith("further-")][:count]
    if not names:
        raise SystemExit(f"{run}: no further voices; a run with corpus.further=120 has some")
    spoken = {"own": {}, run.name: {}}
    for name in names:
        voice, size = drawn_voice(seed, int(name.rpartition("-")[2]), "further")
        rate, mine = round(SAMPLE_RATE / size), model.voice(name)
        heard[name], spoken["own"][name] = (
            [set_level(resample(synthesizer.speak(t, voice).wav, rate, EAR_RATE)) for t in texts]
            for texts in (HEARD, SAID)
        )
        with torch.inference_mode():
            takes = [model.plan_takes([t], mine)[0][1] for t in SAID]
            wavs = [model.sound(torch.cat([x.latents for x in q]), mine[1], 1.0) for q in takes]
        spoken[run.name][name] = [
            resample(np.asarray(w, np.float32), OUTPUT_SAMPLE_RATE, EAR_RATE) for w in wavs
        ]
    spoken["others"] = {
        n: [own[k] for k in range(len(SAID)) for m, own in spoken["own"].items() if m != n]
        for n in names
    }
    return {
        judge: {
            row: {n: likeness(listen, heard[n], wavs[n]) for n in names}
            for row, wavs in spoken.items()
        }
        for judge, listen in listeners(run).items()
    }


def stored_voice(names, gender: str) -> str:
    "The run's voice of that sex; the first where none is known."
    from xtts_ka.corpus.synthetic import VOICES as KNOWN

    return next((n for n in names if n in KNOWN and KNOWN[n].gender == gender), names[0])


def measured_parts(run, names):
    "listener -> row -> voice -> likeness."
    parts, spoken, sound = Parts(run), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, pair in record(folder, names).items():
            heard, own = ([read_audio(p, SAMPLE_RATE)[0] for p in files] for files in pair)
            sex = TRAINING_VOICES[f"ear-{name}"].gender
            rows = parts.ways(heard, own, stored_voice(parts.model.speakers, sex))
            sound[name] = [resample(w, SAMPLE_RATE, EAR_RATE) for w in heard]
            for row, wavs in rows.items():
                narrow = [resample(np.float32(w), OUTPUT_SAMPLE_RATE, EAR_RATE) for w in wavs]
                spoken.setdefault(row, {})[name] = narrow
    return {
        judge: {
            row: {name: likeness(listen, sound[name], wavs[name]) for name in names}
            for row, wavs in spoken.items()
        }
        for judge, listen in listeners(run).items()
    }


def parts_table(judge, rows):
    "Print mean likeness and share of the way from the run's own voice to the recordings."
    means = {row: float(np.mean(list(values.values()))) for row, values in rows.items()}
    first, last = means["the run's own voice"], means["own"]
    print(f"\n{judge:46}{'likeness':>9}{'of the way':>12}")
    for row, mean in means.items():
        print(f"{row:46}{mean:9.3f}{100 * (mean - first) / (last - first):10.0f} %")


def keep(args, values):
    if args.json:
        write_json(args.json, values)


def main():
    ap = argparse.ArgumentParser(
        description="Clone voices never heard by unmodified coqui-tts, and say how alike they are."
    )
    ap.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=(
            "folder of a run with xtts/; the last needs speaker_encoder/ as well; `parts RUN`:"
            " what holds its clones; `known RUN`: its own voices; `guests RUN`: its clones by"
            " `speak`, without and with guests; `pitches RUN`, `voices RUN`: its clones, and those"
            " by a decoder of many voices"
        ),
    )
    ap.add_argument(
        "--share", type=float, default=0.5, help="of guests, with `guests RUN` (default: 0.5)"
    )
    ap.add_argument(
        "--steps",
        type=int,
        help="of the training (default: with `pitches RUN` 2000, with `voices RUN` 9000, with"
        " `guests RUN` the run's own)",
    )
    ap.add_argument(
        "--parts",
        type=int,
        default=32,
        help="components of the voice vectors, with `guests RUN` (default: 32)",
    )
    ap.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = ap.parse_args()
    if not 0 < args.share < 1:
        ap.error(f"--share {args.share}: between 0 and 1")
    if args.steps is not None and args.steps < 1:
        ap.error(f"--steps {args.steps}: at least 1")
    if args.parts < 1:
        ap.error(f"--parts {args.parts}: at least 1")
    torch.set_num_threads(1)
    if args.runs[0].name == "parts" and len(args.runs) == 2:
        found = measured_parts(args.runs[1], SIX)
        for judge, rows in found.items():
            parts_table(judge, rows)
        keep(args, {"run": args.runs[1].name, "likeness": found})
        return
    if args.runs[0].name == "known" and len(args.runs) == 2:
        found = measured_known(args.runs[1])
        for judge, rows in found.items():
            table(judge, rows, ())
        keep(args, {"run": args.runs[1].name, "likeness": found})
        return
    if len({run.name for run in args.runs}) < len(args.runs):
        ap.error("the runs' folders need different names: they name the rows")
    start, guests = time.process_time(), args.runs[0].name == "guests" and len(args.runs) == 2
    if guests:
        told = dict(share=args.share, steps=args.steps, parts=args.parts)
        lost, found = measured(args.runs[1:], SIX, functools.partial(by_guests, **told))
        names = [args.runs[1].name, "with guests"]
    elif args.runs[0].name in WAYS and len(args.runs) == 2:
        speak = functools.partial(by_pitch, way=args.runs[0].name, steps=args.steps)
        lost, found = measured(args.runs[1:], SIX, speak)
        names = [args.runs[1].name, "by pitch"]
    else:
        lost, found = measured(args.runs)
        names = [run.name for run in args.runs]
    ways = {judge: table(judge, rows, names) for judge, rows in found.items()}
    print(f"\n{time.process_time() - start:.0f} CPU s")
    keep(args, {"runs": names, "likeness": found, "way": ways, "lost": lost})


if __name__ == "__main__":
    sys.exit(main())
