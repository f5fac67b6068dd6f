"""How soon `xtts-ka speak` is heard, and how near its word times are.

python bench/door.py outputs/demo

For each model of a run: CPU seconds (user and system) of the whole command, from the cold start to
the file that is written; and how far the times of words lie from the corpus's own phoneme times on
held-out recordings, along the recordings' own codes, as in speaking."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SECONDS, WITHIN = 4.0, 0.08  # What is promised: CPU until the first sound, error of a word's time
TEXT = "გამარჯობა, როგორ ხარ?"
COMMAND = """
import resource, sys
from xtts_ka.pipeline.cli import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = {"TTS", "transformers", "librosa", "matplotlib", "lightning_fabric"}
print(status, used.ru_utime + used.ru_stime, *sorted(heavy & set(sys.modules)))
"""


def first_sound(run, family: str, text: str = TEXT, more=()) -> tuple:
    "(CPU seconds of the whole command, libraries that it need not have loaded)."
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    with tempfile.TemporaryDirectory() as d:
        words = ["speak", text, "--model", str(run), "--family", family]
        words += ["--out", f"{d}/a.wav", "--device", "cpu", "--threads", "1", *more]
        call = [sys.executable, "-c", COMMAND, *words]
        done = subprocess.run(call, env=env, capture_output=True, text=True)
        if done.returncode or not Path(d, "a.wav").is_file():
            raise SystemExit(f"xtts-ka {' '.join(words)}\n{done.stdout}{done.stderr}")
    _, seconds, *heavy = done.stdout.splitlines()[-1].split()
    return float(seconds), heavy


def recorded(run, count: int = 20) -> list:
    "(manifest row, text, [(start, end)] of its words) of held-out recordings of the corpus."
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.core.subtitles import _WORD
    from xtts_ka.text.normalize import normalize
    from xtts_ka.xtts.alignment import letter_times, read_alignments

    segments = Path(run) / "segments"
    found, times = [], read_alignments(segments)
    for row in read_manifest(segments, check_audio=False).rows:
        if row.split != "test" or row.audio_file not in times or len(found) == count:
            continue
        text = normalize(row.text).text
        letters = letter_times(text, times[row.audio_file])
        if letters is not None:
            spans = [(letters[m.start()][0], letters[m.end() - 1][1]) for m in _WORD.finditer(text)]
            found.append((row, text, spans))
    return found


def off(words: list, spans: list) -> list:
    "Errors in seconds, of the beginning and the end of each word."
    pairs = zip(words, spans, strict=True)
    return [e for w, (a, b) in pairs for e in (abs(w.start - a), abs(w.end - b))]


def xtts_errors(run, rows: list) -> list:
    "By the attention along a recording's codes."
    import torch

    import xtts_ka
    from xtts_ka.core.audio import read_audio
    from xtts_ka.xtts.dvae import encode
    from xtts_ka.xtts.export import load_dvae
    from xtts_ka.xtts.features import code_mel
    from xtts_ka.xtts.sampling import _code_input, prefix

    model, errors = xtts_ka.load(run, "xtts", "cpu").model, []
    dvae, gpt = load_dvae(model.folder), model.engine
    for row, text, spans in rows:
        wav = torch.from_numpy(read_audio(Path(run) / "segments" / row.audio_file, 22050)[0])
        codes = encode(dvae, code_mel(wav) / model.xtts.mel_stats[:, None]).tolist()
        ids, said = model.vocabulary.encode(text), [gpt.start_audio_token, *codes[:-1]]
        with torch.inference_mode():
            session = gpt.session(model.watch.heads)
            start = [prefix(gpt, model.voice()[0], ids), _code_input(gpt, said[:1], 0)]
            session.start([torch.cat(start, 1)], [len(ids) + 2])
            seen = [session.attention[0].clone()]
            for n, code in enumerate(said[1:], 1):
                session.step(_code_input(gpt, [code], n))
                seen.append(session.attention[0].clone())
        errors += off(model.words_of(text, torch.stack(seen)), spans)
    return errors


def sovits_errors(run, rows: list) -> list:
    "By the path that its pointer is taught, over a recording's own tokens."
    import xtts_ka
    from xtts_ka.core.audio import read_audio
    from xtts_ka.core.subtitles import word_times
    from xtts_ka.sovits.features import TOKEN_RATE

    model, errors = xtts_ka.load(run, "sovits2", "cpu").model, []
    for row, text, spans in rows:
        codes = model.tokenizer.encode(*read_audio(Path(run) / "segments" / row.audio_file))
        path = model.tokenizer.align(codes, model.bpe.pieces(text))
        words = word_times(text, path, model.bpe.offsets(text), 1 / TOKEN_RATE)
        errors += off(words, spans)
    return errors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", default="outputs/demo")
    parser.add_argument("--recordings", type=int, default=20)
    args = parser.parse_args()
    rows, missed = recorded(args.run, args.recordings), 0
    for family, errors in (("xtts", xtts_errors), ("sovits2", sovits_errors)):
        seconds, heavy = first_sound(args.run, family)
        found = np.array(errors(args.run, rows))
        middle, far = np.median(found), np.quantile(found, 0.9)
        missed += seconds > SECONDS or middle > WITHIN
        print(f"{family}: first sound after {seconds:.1f} s of CPU (at most {SECONDS:g})", *heavy)
        print(
            f"{family}: words of {len(rows)} held-out recordings are {1000 * middle:.0f} ms off in"
            f" the median (at most {1000 * WITHIN:g}), nine of ten within {1000 * far:.0f} ms",
            flush=True,
        )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
