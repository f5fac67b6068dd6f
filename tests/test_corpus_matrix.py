"""Every command that reads a data set, with every form of corpus, whole and hurt: what is kept and
what is rejected are together what was given, or one sentence says why the form is refused.

What each command reads with is called here; what it does with the recordings afterwards is not,
so that four hundred cells take seconds. The commands themselves run in test_printed_commands.py."""

import contextlib
import io
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from test_loaders import KA, RELEASES, tone, write

from xtts_ka.core.errors import XttsKaError
from xtts_ka.corpus.loaders import SUFFIXES


def listed(mark, quoted=False):
    "A list as spreadsheets write it; texts with the separator stand in quotes."

    def build(root):
        for i in range(4):
            tone(root / f"wavs/{i}.wav")
        texts = [f'"{KA[0]}, {KA[1]}; {KA[2]}"' if quoted and not i else KA[i] for i in range(4)]
        rows = [mark.join((f"wavs/{i}.wav", texts[i], "nino")) for i in range(4)]
        write(
            root / "metadata.csv",
            mark.join(("audio_file", "text", "speaker_name")),
            *rows,
            mark.join(("wavs/9.wav", KA[0], "nino")),
        )
        return root, 5

    return build


def parquet(root):
    "Rows with the sound inside, as the Hugging Face Hub keeps them."
    pandas = pytest.importorskip("pandas")
    root.mkdir(parents=True)
    rows = []
    for i in range(5):
        tone(root.parent / f"{i}.wav")
        sound = (root.parent / f"{i}.wav").read_bytes() if i < 4 else None
        rows.append({"audio": {"bytes": sound, "path": f"{i}.wav"}, "text": KA[i % 4]})
    pandas.DataFrame(rows).to_parquet(root / "train-00000-of-00001.parquet")
    return root, 5


def fleurs_tar(root):
    "FLEURS as it is downloaded: tables, and a compressed tar file for each part."
    home, lines = RELEASES["fleurs"](root)
    for part in ("train", "dev", "test"):
        with tarfile.open(home / f"audio/{part}.tar.gz", "w:gz", compresslevel=1) as tar:
            tar.add(home / "audio" / part, part)
        shutil.rmtree(home / "audio" / part)
    return home, lines


FORMATS = RELEASES | {
    "list, comma": listed(",", quoted=True),
    "list, semicolon": listed(";", quoted=True),
    "list, tab": listed("\t", quoted=True),
    "parquet, plain": parquet,
    "fleurs, tar": fleurs_tar,
}


# ---- how a data set is hurt


def sounds(root):
    "Recordings of a tree, links followed."
    return sorted(
        Path(folder) / name
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES)
    )


def linked_folder(root):
    "A folder of recordings lies elsewhere and is linked to."
    if not (found := sounds(root)):
        return 0
    folder = found[0].parent
    away = root.parent / "elsewhere"
    folder.rename(away)
    folder.symlink_to(away, target_is_directory=True)
    return 0


def bad_file(root):
    "One recording is cut in its header."
    for victim in [p for p in sounds(root) if "mic2" not in p.name][:1]:
        victim.write_bytes(victim.read_bytes()[:20])
    return 0


def bad_row(root):
    "One line more, which is no row; where texts have files of their own, one that is not UTF-8."
    lists = [p for p in sorted(root.rglob("*")) if p.name in ("metadata.csv", "validated.tsv")]
    lists = lists or sorted(root.rglob("train.tsv")) or sorted(root.rglob("metadata_train.csv"))
    if lists:
        with open(lists[0], "ab") as f:
            f.write(b"half a line\n")
        return 1
    texts = [p for p in sorted(root.rglob("*")) if p.suffix in (".txt", ".lab")]
    if texts:
        texts[0].write_bytes(b"\xff\xfe\xff")
    return 0


HURTS = {
    "whole": lambda root: 0,
    "linked folder": linked_folder,
    "one bad file": bad_file,
    "one bad row": bad_row,
}


# ---- what the commands read with: path -> (kept, rejected)


def run_corpus(path, out, form):
    from xtts_ka.corpus.sources import CorpusConfig, build_corpus

    made = build_corpus(CorpusConfig(source="folder", path=str(path)), out)
    assert len(made.rows) == len(sounds(out))
    return len(made.rows), len(made.rejects)


def dry_run(path, out, form):
    from xtts_ka.corpus.look import look_at
    from xtts_ka.corpus.sources import CorpusConfig

    found = look_at(CorpusConfig(source="folder", path=str(path)))
    return len(found.corpus.rows), len(found.rejects)


def embed(path, out, form):
    from xtts_ka.speaker.prepare_embeddings import find_recordings

    found = find_recordings(path)
    return len(found.voices), len(found.manifest.rejects if found.manifest else [])


def speaker_folder(path, out, form):
    "`create-speaker-embeddings` and `train-speaker`."
    from xtts_ka.speaker.data import scan_folder

    layout = {"vctk": "VCTK", "libritts": "LibriTTS"}.get(form, "auto")
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        found = scan_folder(path, layout)
    told = re.findall(r"(\d+) (?:lines rejected|recordings do not lie)", said.getvalue())
    told += ["1"] * said.getvalue().count("is left out: ")
    return len(found), sum(map(int, told))


def vocoder_train(path, out, form):
    from xtts_ka.vocoder.config import DataConfig, MelConfig
    from xtts_ka.vocoder.data import find_sources, read_clips

    found, rejects = find_sources(path)
    clips, bad = read_clips(found, MelConfig(), DataConfig(train=str(path)))
    return len(clips), len(rejects) + len(bad)


def vocoder_generate(path, out, form):
    from xtts_ka.vocoder.infer import find_items

    _, items, rejects = find_items(path)
    return len(items), len(rejects)


def sovits_prepare(path, out, form):
    from xtts_ka.sovits.config import PrepareConfig
    from xtts_ka.sovits.data import collect_clips

    out.mkdir(parents=True)
    made = collect_clips(PrepareConfig(voices=0, strangers=0), path, out, 1)
    return len(made.clips), len(made.rejects)


def sovits_tokenize(path, out, form):
    import xtts_ka
    from xtts_ka.sovits.tokens import tokenize_corpus

    made = tokenize_corpus(path, Path(xtts_ka.__file__).parent / "data/recogniser_ka", out)
    return made.clips, made.rejects


def create_metadata(path, out, form):
    from xtts_ka.xtts.create_metadata_files import create_metadata_files

    vectors = out.parent / "vectors"
    vectors.mkdir()
    for sound in sounds(path):
        np.save(vectors / f"{sound.stem}.npy", np.ones(4, np.float32))
    made = create_metadata_files(vectors, out, path / "metadata.csv")
    return sum(made.parts.values()), len(made.rejects)


COMMANDS = {
    "run": run_corpus,
    "run --dry-run": dry_run,
    "embed": embed,
    "create-speaker-embeddings, train-speaker": speaker_folder,
    "vocoder train": vocoder_train,
    "vocoder generate": vocoder_generate,
    "sovits prepare and train": sovits_prepare,
    "sovits tokenize": sovits_tokenize,
    "create-metadata": create_metadata,
}

SENTENCE = 20  # Letters of a reason, at least


def outcome(command, form, hurt, tmp):
    "What a cell of the table is: '' when all is accounted for, the sentence of a refusal, a fault."
    path, lines = FORMATS[form](tmp / "in")
    lines += HURTS[hurt](path)
    files = len(sounds(path))
    try:
        kept, rejected = COMMANDS[command](path, tmp / "out", form)
    except XttsKaError as e:
        said = str(e).replace(str(tmp), "")
        return f"{'refused' if len(said) >= SENTENCE else 'fault'}: {said}"
    except Exception as e:
        return f"fault: {type(e).__name__}: {e}"
    if kept + rejected in (lines, files):
        return ""
    return f"fault: {kept} kept and {rejected} rejected of {lines} lines and {files} files"


# (command, form, hurt; None: any) -> what is known to be wrong, with its place
KNOWN: dict = {}


def known(command, form, hurt):
    keys = [(c, f, h) for c in (command, None) for f in (form, None) for h in (hurt, None)]
    return next((KNOWN[k] for k in keys if k in KNOWN), "")


@pytest.mark.parametrize("hurt", HURTS)
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_lost_without_a_word(command, hurt, tmp_path, counted):
    found = {}
    for n, form in enumerate(FORMATS):
        found[form] = outcome(command, form, hurt, tmp_path / str(n))
    wrong = {
        form: why
        for form, why in found.items()
        if why.startswith("fault") and not known(command, form, hurt)
    }
    assert not wrong, "\n".join(f"{command}, {form}, {hurt}: {why}" for form, why in wrong.items())
    refused = sum(why.startswith("refused") for why in found.values())
    counted(f"{len(found) - refused} forms read, {refused} refused with a sentence")
