"""Every command that README, the guides and the tutorials print, run against the smoke run in a
copy of its repository, and what it writes looked at.

`outputs/demo` is the smoke run there, and `configs/demo.yaml` its configuration: the sizes are the
only thing that differs from what a reader types. Names that a reader replaces (`nino.wav`,
`recordings`, `FOLDER`, `OWNER/NAME`) are files made here. What trains for minutes gets steps of its
own; a whole run is looked at with `--dry-run`, since the smoke run itself is one."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shards
import soundfile
import yaml
from smoke import RUN

from xtts_ka.core.manifest import read_manifest
from xtts_ka.pipeline import fingerprint
from xtts_ka.pipeline.fingerprint import code_digest

pytestmark = pytest.mark.timeout(600)  # the first test waits for the run
FULL = os.environ.get("XTTS_KA_FAULTS") == "full"  # also what trains in full size
ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "nbs/guides").glob("*.md")),
    *sorted((ROOT / "nbs/tutorials").glob("*.md")),
]
PROGRAMS = (
    "xtts-ka",
    "make",
    "torchrun",
    "srun",
    "papermill",
    "run_pretrain",
    "tts",
    "hf",
    "python",
)
MERE = r"xtts-ka (?:(?:vocoder|sovits|hub) )?[a-z-]+"  # a command's name alone


def printed(text):
    """Command lines of a page, continued lines joined, in the shell's words. A command that the
    text names without what it needs (`xtts-ka train-speaker`) is asked for its help."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    inline = re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`", text)
    lines = [x for b in blocks for x in b.replace("\\\n", " ").splitlines()]
    for line in lines + [f"{x} --help" if re.fullmatch(MERE, x) else x for x in inline]:
        line = re.sub(r'"\$(\w+)[^"]*"', "2", line)
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]  # RANK=3 in front of a command
        if words[1:] and words[0] in PROGRAMS:
            yield tuple(words)


ALL = list(dict.fromkeys(w for page in PAGES for w in printed(page.read_text(encoding="utf-8"))))


# ---- the place


@pytest.fixture(scope="module")
def place(smoke, tmp_path_factory):
    "A copy of the smoke run's repository, in which commands may write."
    from xtts_ka.corpus.sentences import load_sentences
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer

    root = tmp_path_factory.mktemp("printed")
    for name in ("nbs", "configs", "xtts_ka", "outputs", "settings.ini"):
        source = smoke.root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, root / name)
    (root / "outputs" / RUN).rename(root / "outputs/demo")
    tree = yaml.safe_load((root / "outputs/demo/config.yaml").read_text(encoding="utf-8"))
    (root / "configs/demo.yaml").write_text(
        yaml.safe_dump(tree | {"run": "demo"}, allow_unicode=True), encoding="utf-8"
    )
    synthesizer, rows = Synthesizer(), ["audio_file|text|speaker_name"]
    (root / "recordings/wavs").mkdir(parents=True)
    for i, s in enumerate(load_sentences()[:14]):
        spoken = synthesizer.speak(s.text, VOICES[("giorgi", "ketevan")[i % 2]])
        soundfile.write(root / f"recordings/wavs/{i}.wav", spoken.wav, 22050)
        rows.append(f"wavs/{i}.wav|{s.text}|{('გია', 'ნინო')[i % 2]}")
    (root / "recordings/metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name, i in (("nino.wav", 1), ("my_voice.wav", 1), ("gia.wav", 0)):
        shutil.copy(root / f"recordings/wavs/{i}.wav", root / name)
    (root / "corpus.txt").write_text("დილა მშვიდობისა\n", encoding="utf-8")
    (root / "book.txt").write_text("5 კაცი\nდილა\n", encoding="utf-8")
    shutil.copytree(root / "recordings/wavs", root / "FOLDER/audio")
    shutil.copytree(root / "recordings", root / "english")
    english = [
        r.rpartition("|")[0].partition("|")[0] + "|good morning number|nino" for r in rows[1:]
    ]
    (root / "english/metadata.csv").write_text("\n".join([rows[0], *english]) + "\n")
    texts = [s.text for s in load_sentences()[:40]]
    rows = [(i, f"{i}.wav", shards.sound(i), t, i % 2) for i, t in enumerate(texts)]
    for name in ("fleurs", "hub/google--fleurs", "hub/OWNER--NAME"):  # as fetched before
        which = "ka.first-500" if "OWNER" in name else "ka_ge"
        for part, some in (("train", rows[:30]), ("test", rows[30:])):
            shards.write(root / f"data/{name}/{which}/{part}.parquet", shards.fleurs_table(some))
        if name.startswith("hub/"):
            most, full = 500 if "OWNER" in name else 0, name[4:].replace("--", "/")
            made_of = [full, which.partition(".")[0], "", most, "", ""]
            record = root / f"data/{name}/{which}/rows.json"
            record.write_text(json.dumps({"made_of": made_of}), encoding="utf-8")
    (root / "audiobook/nino").mkdir(parents=True)
    for chapter in (1, 2):  # the second without its text
        some = load_sentences()[20 * chapter : 20 * chapter + 8]
        pause = np.zeros(14000, np.float32)
        wav = [np.r_[pause, synthesizer.speak(s.text, VOICES["ketevan"]).wav] for s in some]
        sound = root / f"audiobook/nino/chapter {chapter}.mp3"
        soundfile.write(sound, np.r_[(*wav, pause)], 22050)
        if chapter == 1:
            sound.with_suffix(".txt").write_text(" ".join(s.text for s in some), encoding="utf-8")
    libri = root / "LibriTTS/dev-clean/19/198"
    libri.mkdir(parents=True)
    shutil.copy(root / "nino.wav", libri / "19_198_0.wav")
    return root


@pytest.fixture
def xtts_ka(place, monkeypatch, capsys):
    "A call of `xtts-ka` in this process, from the root of the copy: (exit status, out, err)."
    from xtts_ka.pipeline.cli import main

    monkeypatch.setenv("XTTS_KA_ROOT", str(place))
    monkeypatch.chdir(place)
    # The code that the run was made by: an edit since then would make its stages stale
    monkeypatch.setattr(fingerprint, "code_digest", partial(code_digest, root=place))

    def call(*words):
        capsys.readouterr()
        try:
            code = main([str(w) for w in words])
        except SystemExit as e:
            code = e.code
        return code, *capsys.readouterr()

    return call


def fine(found, *words):
    code, out, err = found
    assert code == 0, out + err
    for w in words:
        assert w in out, f"{w!r} is not in:\n{out}\n{err}"
    return out


# ---- how each kind of command is run: (call, place, words) -> None


def run_stages(call, place, words):
    "Lists and plans as they are; what would train is planned."
    whole = not {"--list", "--dry-run"} & set(words)
    if "corpus.language=en" in words:
        words = ["corpus.path=english" if w == "corpus.path=recordings" else w for w in words]
    out = fine(call(*words, *["--dry-run"] * whole), "11 stages" if whole else "")
    if "--list" in words:
        assert out.count(" done ") == 11 or "outputs/smoke" in out
    elif {"corpus.path=recordings", "corpus.path=english"} & set(words):
        assert "14 usable" in out or (place / "outputs/nino/segments/metadata.csv").is_file(), out
    else:
        assert "/11 corpus" in out or "of 11 stages" in out


def own_to_segments(call, place, words):
    if not FULL:  # two kernels start
        return run_stages(call, place, words)
    fine(call(*words), "14 clips", "enough for")
    rows = read_manifest(place / "outputs/nino/segments").rows
    assert len(rows) == 14 and {r.speaker_name for r in rows} == {"გია", "ნინო"}


def of_the_hub(call, place, words):
    "Data sets in the form of FLEURS's Parquet files; FLEURS itself is not here."
    if "--dry-run" not in words and FULL:
        fine(call(*words), "40 clips", "enough for")
    else:
        page = (place / "nbs/tutorials/hub_data.md").read_text(encoding="utf-8")
        shown = next(x for x in page.splitlines() if "usable" in x)
        fine(call(*words, "--dry-run"), shown.strip())


def needs_weights(call, place, words):
    "The recipe for XTTS-v2: its weights are not here, and that is said before anything runs."
    code, out, err = call(*words, "--dry-run")
    assert code in (0, 2) and re.search(r"xtts_v2|common_voice|[Nn]o such", out + err), out + err


def curate(call, place, words):
    "The built-in recogniser instead of gigabytes; the review as a file instead of a server."
    words = [w.replace("ctc:mms?lang=kat", "builtin") for w in words]
    if words[1] != "road" and not (place / "book").is_dir():
        road = ["--out", "book", "--recogniser", "builtin"]
        fine(call("corpus", "road", "audiobook", *road), "align", "slice", "check")
    if words[1] == "unpack" and not (place / "book-packed").is_dir():
        fine(call("corpus", "pack", "book", "--out", "book-packed"))
    if words[1] == "review":
        fine(call(*words, "--static", "review.html"))
        assert "გ" in (place / "review.html").read_text(encoding="utf-8")
        return
    if words[1] == "pack":
        shutil.rmtree(place / words[words.index("--out") + 1], ignore_errors=True)
    fine(call(*words))
    rows = read_manifest(place / "book", require_text=False).rows
    assert len(rows) > 10 and {r.speaker_name for r in rows} == {"nino"}


def book_run(call, place, words):
    "What is packed is planned; it is made where it is not there."
    if not (place / "book-packed").is_dir():
        curate(call, place, ["corpus", "pack", "book", "--out", "book-packed"])
    run_stages(call, place, words)


def make_run(call, place, words):
    words = [w.replace("ctc:mms?lang=kat", "builtin") for w in words]
    given = dict(w.split("=", 1) for w in words[2:])
    config = given.get("CONFIG", "configs/demo.yaml")
    run_stages(call, place, ["run", "--config", config, *shlex.split(given.get("ARGS", ""))])


def text_line(call, place, words):
    "The printed answer stands below the command, or what it must hold."
    out = fine(call(*words)).strip()
    page = (ROOT / "nbs/guides/georgian_text.md").read_text(encoding="utf-8")
    if m := re.search(re.escape(shlex.quote(words[-1]).replace("'", '"')) + r"\n# (.+)", page):
        assert out == m[1]
    if "--out" in words:
        assert (place / "book.words.txt").read_text(encoding="utf-8") == "ხუთი კაცი\nდილა\n"
    elif "json" in words:
        assert json.loads(out)["source"] == words[-1]
    else:
        said = out.rpartition("\n  = ")[2]  # below what --explain lists
        assert re.search("[ა-ჰa-z]", said) and not re.search(r"\d", said)


def speak(call, place, words):
    words = [*words, "--out", "spoken.wav"] if "--out" not in words else words
    words += ["--retries", "0"] * ("--retries" not in words)  # each take of this model is faulty
    words = [w.replace("outputs/xtts_v2_ka", "outputs/demo") for w in words]
    words = ["nino" if w == "ketevan" else w for w in words]  # the second voice of the smoke run
    for speaker, own in (("giorgi", "giorgi"), ("ketevan", "nino")):
        clip = min((place / f"outputs/demo/segments/wavs/{own}").glob("own*.wav")).name
        words = [re.sub(rf"wavs/{speaker}/own\d+\.wav", f"wavs/{own}/{clip}", w) for w in words]
    if "models/nino" in words and not (place / "models/nino").is_dir():
        shutil.copytree(place / "outputs/demo/xtts", place / "models/nino")
    target = place / words[words.index("--out") + 1]
    target.unlink(missing_ok=True)
    code, out, err = call(*words)
    assert code in (0, 1) and target.is_file(), out + err  # 1: it lost words, after so few steps
    wav, rate = soundfile.read(target)
    assert rate >= 16000 and len(wav) > rate // 10 and np.abs(wav).max() > 1e-4


def monitor(call, place, words):
    words = [w for w in words if w not in ("--watch", "--interval", "30")]  # it ends by itself
    code, out, err = call(*words)
    assert code in (0, 3) and re.search("full_pretrain|nothing is left over", out), out + err
    if "--export" in words:
        head = (place / "demo.csv").read_text(encoding="utf-8").splitlines()
        assert len(head) > 20 and "step" in head[0]
    if "--plot" in words:
        assert list((place / "outputs/demo/monitor").glob("*.png"))


def sweep(call, place, words):
    fine(call(*words, *["--dry-run"] * ("--dry-run" not in words)), "demo-")


def slurm(call, place, words):
    "Scripts are written and read by bash; what stands in them: tests/test_slurm.py."
    folder = place / words[words.index("--out") + 1]
    shutil.rmtree(folder, ignore_errors=True)
    fine(call(*words), "submit.sh")
    for path in folder.iterdir():
        subprocess.run(["bash", "-n", path], check=True)


def index(call, place, words):
    fine(call(*words), "outputs/index.html")
    assert '"demo"' in (place / "outputs/index.html").read_text(encoding="utf-8")


def config(call, place, words):
    assert yaml.safe_load(fine(call(*words)))["corpus"]["language"] == "ka"


def embed(call, place, words):
    out_dir = words[words.index("--output_dir") + 1] if "--output_dir" in words else "data/own"
    words = [w.replace("data/segmented", "recordings") for w in words]
    words += ["--output_dir", out_dir] if "--output_dir" not in words else []
    before = (place / "recordings/metadata.csv").read_bytes()
    shutil.rmtree(place / out_dir, ignore_errors=True)
    fine(call(*words, "--no_visualize"), "vectors made now")
    folder = words[words.index("--segmented_dir") + 1]
    found = len(list((place / out_dir / "embeddings").glob("*.npy")))
    assert found == len(read_manifest(place / folder, check_audio=False).rows)
    assert (place / "recordings/metadata.csv").read_bytes() == before  # nobody's corpus is written


def create_metadata(call, place, words):
    shutil.rmtree(place / "data/split", ignore_errors=True)
    if not (place / "data/embeddings/index.csv").is_file():
        embed(
            call,
            place,
            [
                "embed",
                "--segmented_dir",
                "recordings",
                "--output_dir",
                "data/embeddings",
                "--model",
                "ecapa:outputs/demo/speaker_encoder",
            ],
        )
    fine(call(*words, "--metadata", "recordings/metadata.csv"), "train.csv")
    parts = [read_manifest(place / f"data/split/{p}.csv").rows for p in ("train", "val", "test")]
    assert sum(map(len, parts)) == 14 and all(parts)


def speaker_dataset(call, place, words):
    fine(call(*words), "1 ok", "1 speakers")
    assert list((place / "LibriTTS").rglob("*_averaged_embedding"))


def train_speaker(call, place, words):
    options = dict(
        train_data_root=str(place / "recordings"),
        models_dir=str(place / "models"),
        run_id="printed",
    )
    (place / "train_config.json").write_text(json.dumps(options))
    code, out, err = call(*words, "loop.steps=2")
    assert code == 0 or "train_config.json" in err, out + err


def vocoder(call, place, words):
    words = [w.replace("outputs/xtts_v2_ka", "outputs/demo") for w in words]
    if words[1] == "train" and "configs/vocoder/v1.yaml" in words and not FULL:
        return parsed(call, place, words)  # HiFi-GAN in full size
    if words[1] == "train":
        tiny = ["loop.steps=2", "loop.validate_every=2", "loop.save_every=2", "loop.batch_size=2"]
        tiny += ["data.max_val=1"]
        fine(call(*words, *tiny))
        target = next(w for w in words if w.startswith("path_to_save=")).partition("=")[2]
        assert (place / target / "generator/generator.pt").is_file()
    elif words[1] == "generate":
        checkpoint = place / "outputs/vocoder-demo/generator"
        if not checkpoint.is_dir():
            shutil.copytree(place / "outputs/demo/vocoder/generator", checkpoint)
        shutil.rmtree(place / "outputs/generated", ignore_errors=True)
        fine(call(*words))
        assert len(list((place / "outputs/generated").rglob("*.wav"))) == 14
    else:
        if not (place / "outputs/generated").is_dir():
            shutil.copytree(place / "FOLDER/audio", place / "outputs/generated")
        out = fine(call(*words, "metrics=[mcd]"))
        assert "mcd" in out.lower()


def tokenize(call, place, words):
    words = [w.replace("data/metadata.csv", "recordings/metadata.csv") for w in words]
    words = [w.replace("slurm", "0/1") for w in words]
    shutil.rmtree(place / "data/tokens", ignore_errors=True)
    fine(call(*words), "data/tokens")
    if "1/8" not in words:
        held = json.loads((place / "data/tokens/codes/index.json").read_text())
        assert held and (place / "data/tokens/codes/frames.npy").is_file()


def hub(call, place, words):
    shared = place / "shared"
    words = [w.replace("file:///mnt/shared/nino", f"file://{shared}/nino") for w in words]
    words = [w.replace("OWNER/NAME", f"file://{shared}/name") for w in words]
    if words[1] == "push":
        shutil.rmtree(shared, ignore_errors=True)
        out = fine(call(*words))
        assert ("model.pth" in out or "semantic.safetensors" in out) or list(shared.rglob("*.json"))
    else:
        source = words[2].removeprefix("file://")
        if not Path(source).is_dir():
            fine(call("hub", "push", "outputs/demo/xtts", words[2], "--licence", "cc-by-4.0"))
        shutil.rmtree(place / words[3], ignore_errors=True)
        fine(call(*words))
        assert (place / words[3] / "config.json").is_file()


def sovits_training(call, place, words):
    "Seconds each: only with XTTS_KA_FAULTS=full; tests/test_sovits_resume.py trains all three."
    if not FULL:
        return parsed(call, place, words)
    tiny = [f"{p}.loop.steps=2" for p in ("semantic", "ar", "decoder")]
    fine(call(*words, *tiny, "prepare.voices=1", "prepare.voice_clips=2", "prepare.strangers=0"))
    assert any((place / "outputs/sovits").rglob("*.safetensors")) or words[1] == "prepare"


def parsed(call, place, words):
    "Understood by the program; what it does is run where `ELSEWHERE` says."
    from xtts_ka.pipeline.cli import parse

    assert parse(list(words)).do


@contextlib.contextmanager
def environment(**more):
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def on_a_cluster(call, place, words):
    "Ray as `ray start` begins it; every day the command is only read, as a cluster takes long."
    if not FULL:
        return parsed(call, place, words)
    cluster = pytest.importorskip("ray.cluster_utils", reason="the extra `cluster`")
    made = cluster.Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        with environment(RAY_ADDRESS=made.address):
            if words[0] == "sweep":
                options = [w.replace("2,4,6", "1,2") for w in words]
                cheap = ["--only", "corpus,segments"]
                fine(call(*options, *cheap), "demo-layers-1", "demo-layers-2")
            else:
                tokenize(call, place, words)
    finally:
        made.shutdown()


def in_a_bucket(call, place, words):
    "An S3 server on the loopback address; every day: tests/test_storage.py."
    if not FULL:
        return parsed(call, place, words)
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    from xtts_ka.core.storage import Storage, forget

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "forprinted")
    keys |= dict(AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true")
    keys |= dict(AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    shutil.copytree(place / "recordings", place / "data/clips", dirs_exist_ok=True)
    try:
        with environment(**keys, XTTS_KA_STORAGE=str(place / "data/storage")):
            forget("")
            address = keys["AWS_ENDPOINT_URL"] + "/moto-api/reset"
            urllib.request.urlopen(urllib.request.Request(address, b"")).close()
            Storage("s3://my-bucket/x").fs.mkdir("my-bucket")
            pack = ("corpus", "pack", "data/clips", "--out", "s3://my-bucket/clips")
            out = fine(call(*pack))
            if words[:2] == ["hub", "push"]:
                out = fine(call(*["outputs/demo/xtts" if w == "FOLDER" else w for w in words]))
            elif words[0] == "run":
                out = fine(call(*words), "copy: s3://my-bucket/runs/clips")
                shutil.rmtree(place / "outputs/clips")
                fine(call(*words), "files brought back", "nothing to do")
            elif words[0] == "vocoder":
                shutil.rmtree(place / "outputs/vocoder", ignore_errors=True)
                vocoder(call, place, words)
            elif tuple(words) != pack:
                out = fine(call(*words))
            print(out)
    finally:
        forget("")
        server.stop()


def init(call, place, words):
    "A folder to work in; the rest of what stands there is looked at in tests/test_install.py."
    shutil.rmtree(place / words[1], ignore_errors=True)
    fine(call(*words), words[1])
    assert list((place / words[1] / "configs").glob("*.yaml"))


def benchmark(call, place, words):
    "Few texts and the built-in recogniser; another program, `tts`, has a test of its own."
    if "--answers" in words:
        key = place / "outputs/benchmark/listening_key.json"
        if not key.is_file():
            small = ["--sentences", "2", "--scorer", "builtin", "--system", "espeak:nino"]
            small += ["--system", "recordings", "--out", "outputs/benchmark"]
            fine(call("benchmark", "--texts", "outputs/demo", *small))
        answers_of_a_listener(json.loads(key.read_text(encoding="utf-8")), place)
        fine(call(*words), "1 listener")
        return
    texts = words[1:5] if "google/fleurs" in words else ("--texts", "outputs/demo")
    fine(call("benchmark", *texts, "--list", "all.tsv"), "each to be spoken")
    if "--list" in words:
        fine(call(*words), words[-1])
        assert (place / words[-1]).read_text(encoding="utf-8").startswith("id\ttext\n")
        return
    for line in (place / "all.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        (place / "wavs/mine").mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "nino.wav", place / f"wavs/mine/{line.partition(chr(9))[0]}.wav")
    if any("speak_all.py" in w for w in words):  # the program of the tutorial, with a voice
        guide = (ROOT / "nbs/tutorials/score_your_tts.md").read_text(encoding="utf-8")
        code = re.search(r"```python\n(.*?)```", guide, re.S)[1]
        speak = f"import shutil\ndef speak(_, to): shutil.copy({str(place / 'nino.wav')!r}, to)\n"
        (place / "speak_all.py").write_text(speak + code, encoding="utf-8")
    at = [i for i, w in enumerate(words) if w.startswith("coqui=")]
    words = [w for i, w in enumerate(words) if FULL or not (i in at or i + 1 in at)]
    weights = [i for i, w in enumerate(words) if w.startswith("ctc:")]
    if weights:  # gigabytes: not here
        code, _, err = call(*words)
        assert code == 2 and "xtts-ka fetch" in err, err
        words = [w for i, w in enumerate(words) if i not in weights and i + 1 not in weights]
    to = words[words.index("--out") + 1] if "--out" in words else "outputs/benchmark"
    shutil.rmtree(place / to, ignore_errors=True)
    out = fine(call(*words, "--sentences", "2", "--scorer", "builtin"), "table.tex")
    assert "recordings " in out and (place / to / "index.html").is_file()


def answers_of_a_listener(plan, place):
    form = [(name, plan["trials"][name]) for name in plan["forms"][0]]
    answers = [
        {"trial": n, "stimuli": t["stimuli"], "values": [3.0] * len(t["stimuli"])}
        for n, t in form
        if t["kind"] == "mos"
    ]
    held = {"format": "xtts_ka listening test 1", "test": plan["test"], "listener": "one"}
    held |= {"about": {"native": True}, "answers": answers}
    (place / "answers-one.json").write_text(json.dumps(held), encoding="utf-8")


def lexicon(call, place, words):
    fine(call(*words))
    assert "დილა" in (place / words[words.index("--out") + 1]).read_text(encoding="utf-8")


def voices(call, place, words):
    fine(call(*["outputs/demo" if w == "MODEL" else w for w in words]), "giorgi", "nino")


def named(call, place, words):
    code, out, err = call(*words)
    assert code == 0 and f"usage: {shlex.join(['xtts-ka', *words[:-1]])}" in out, out + err


# Words that a command begins with -> how it is run here; the longest that fits
HOW = {
    ("run",): run_stages,
    ("run", "--config", "configs/xtts_v2_ka.yaml"): needs_weights,
    ("run", "--config", "configs/demo.yaml", "--to", "segments"): own_to_segments,
    ("run", "--config", "configs/demo.yaml", "--dry-run", "run=fleurs"): of_the_hub,
    ("run", "--config", "configs/demo.yaml", "--to", "segments", "run=cv"): of_the_hub,
    ("run", "--config", "configs/demo.yaml", "run=book"): book_run,
    ("corpus",): curate,
    ("normalize",): text_line,
    ("phonemize",): text_line,
    ("speak",): speak,
    ("sovits", "speak"): speak,
    ("sovits", "tokenize"): tokenize,
    ("sovits",): sovits_training,
    ("monitor",): monitor,
    ("sweep",): sweep,
    ("slurm",): slurm,
    ("train-gpt",): parsed,  # tests/test_torchrun.py
    ("index",): index,
    ("config",): config,
    ("embed",): embed,
    ("create-metadata",): create_metadata,
    ("create-speaker-embeddings",): speaker_dataset,
    ("train-speaker",): train_speaker,
    ("vocoder",): vocoder,
    ("hub",): hub,
    ("adapt-embeddings",): parsed,
    ("demo",): parsed,  # tests/test_page.py opens it
    ("fetch",): parsed,  # gigabytes
    ("benchmark",): benchmark,
    ("init",): init,
    ("lexicon",): lexicon,
    ("voices",): voices,
}
# Other programs, and commands that need what is not here -> the test that runs them
ELSEWHERE = {
    ("make", "test"): "tests/test_house.py::test_make_help_lists_the_targets",
    ("make", "lab"): "tests/test_first_use.py::test_lab_opens_at_the_root",
    ("make", "docs"): "tests/test_docs.py::test_command_reference",
    ("make", "setup"): "tests/test_house.py::test_make_help_lists_the_targets",
    ("make", "bench"): "tests/test_house.py::test_make_help_lists_the_targets",
    ("make", "clean"): "tests/test_house.py::test_make_help_lists_the_targets",
    ("python",): "tests/test_house.py::test_readme_names_what_exists",
    ("hf",): "tests/test_hub.py::test_without_network_login_or_repository",
    ("tts",): "tests/test_smoke.py::test_the_unmodified_tts_command_speaks_georgian",
    ("torchrun",): "tests/test_torchrun.py",
    ("srun",): "tests/test_torchrun.py",
    ("papermill",): "tests/test_run_notebooks.py",
    ("run_pretrain",): "tests/test_pretrain.py",
}


def longest(words, table):
    keys = [k for k in table if tuple(words[: len(k)]) == k]
    return table[max(keys, key=len)] if keys else None


def handler(words):
    "How a printed command is run, or the test that runs it; None: nobody thought of it."
    if words[:2] == ("make", "run"):
        return make_run
    if words[0] == "xtts-ka" and words[-1] == "--help":
        return named
    if "auto" in words:
        return on_a_cluster
    if any("s3://" in w for w in words):
        return in_a_bucket
    if words[0] == "xtts-ka":
        return longest(words[1:], HOW)
    return longest(words, ELSEWHERE)


def test_every_printed_command_is_run():
    assert len(ALL) > 70
    assert [shlex.join(w) for w in ALL if not handler(w)] == []
    for where in ELSEWHERE.values():
        file, _, name = where.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, where


@pytest.mark.parametrize(
    "words", [w for w in ALL if callable(handler(w))], ids=lambda w: shlex.join(w)[:90]
)
def test_printed_command(words, xtts_ka, place):
    how = handler(words)
    how(xtts_ka, place, list(words if how is make_run else words[1:]))
