"""Data for XTTS: nothing is lost in silence, every clip is seen exactly once an epoch, and training
sees the same samples as the classes give."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from xtts_ka.core.audio import write_audio
from xtts_ka.core.errors import ConfigError, ManifestError, MissingError
from xtts_ka.core.loop import Batches
from xtts_ka.core.manifest import Row, read_manifest, write_manifest
from xtts_ka.core.ragged import RaggedArray
from xtts_ka.xtts.config import AlignmentConfig, GptConfig
from xtts_ka.xtts.data import CollateFunction, DataManager, EpochBatches, XTTSDataset, write_mels
from xtts_ka.xtts.features import SAMPLE_RATE, n_codes
from xtts_ka.xtts.filters import FilterConfig
from xtts_ka.xtts.vocabulary import Vocabulary, make_vocab

WORDS = "დილა საღამო წყალი მზე მთვარე ვარსკვლავი ზღვა მთა".split()


def segments(folder, n=30, speakers=("ნინო", "gio"), **change):
    """Tones with texts, as the segments stage leaves them; `change` maps a clip to what is wrong
    with it."""
    rows = []
    for i in range(n):
        samples = 8000 + 1500 * (i * 7 % 11)
        write_audio(
            folder / f"wavs/{i}.wav",
            (0.1 * np.sin(np.arange(samples) * 0.02 * (1 + i % 7))).astype(np.float32),
            SAMPLE_RATE,
        )
        rows.append(
            Row(
                f"wavs/{i}.wav",
                " ".join(WORDS[: 1 + i % 8]),
                speakers[i % len(speakers)],
                "val" if i % 10 == 9 else "train",
                samples / SAMPLE_RATE,
            )
        )
    for i, what in change.items():
        for k, v in what.items():
            setattr(rows[int(i[1:])], k, v)
    write_manifest(folder / "metadata.csv", rows)
    return folder


@pytest.fixture
def run(tmp_path):
    "Segments, and what the stage xtts_init computes of them (with made-up codes)."
    vocabulary = Vocabulary(make_vocab("ka"), "ka")
    data = DataManager(segments(tmp_path / "segments"), vocabulary)
    write_mels(data.clips, tmp_path / "init/references", "reference")
    lengths = [n_codes(data.clips.samples(i)) for i in range(len(data.clips))]
    RaggedArray.write(
        tmp_path / "init/codes",
        ((np.arange(n) * 7 + i) % 32 for i, n in enumerate(lengths)),
        sum(lengths),
        {"codes": 32},
    )
    torch.save(torch.full((80,), 2.0), tmp_path / "init/mel_stats.pth")
    vocabulary.save(tmp_path / "init/vocab.json")
    return tmp_path


def manager(run, **options):
    return DataManager(run / "segments", init=run / "init", seed=3, **options)


def gpt_task(run, data, **options):
    from xtts_ka.xtts.train_gpt import GptTask

    plain = dict(
        alignment=AlignmentConfig(weight=0), corrupt=0
    )  # what only the training adds to a batch
    cfg = GptConfig(layers=1, dim=32, heads=2, **plain, **options)
    cfg.loop.seed, cfg.loop.batch_size, cfg.loop.bucket = data.seed, 8, True
    held = data.arrays()
    return GptTask(
        cfg,
        data.clips,
        data.vocabulary,
        RaggedArray(run / "init/codes"),
        RaggedArray(run / "init/references"),
        held["stats"],
        held["codebook"],
    )


# one code with the training stage


@pytest.mark.parametrize("own", [False, True])
def test_training_sees_the_same_batches(run, own):
    data = manager(run)
    task = gpt_task(
        run, data, reference="same" if own else "other", prompt_mask=own, reference_frames=60
    )
    task.models()
    stage, classes = (
        Batches(task, task.cfg.loop),
        data.loader("train", 8, epoch=2, frames=60, own_reference=own, prompt_mask=own),
    )
    first = 2 * stage.per_epoch
    for m, batch in zip(range(first, first + stage.per_epoch), classes, strict=True):
        mine = stage[m]
        for key in mine:
            assert torch.equal(mine[key], batch[key]), key


def test_a_batch_trains_a_gpt(run):
    "Loss and gradient of a batch of the loader, by the stage's own loss."
    from xtts_ka.xtts.gpt import gpt_losses

    data = manager(run)
    task = gpt_task(run, data)
    net = task.models()["gpt"]
    text, code = gpt_losses(net, next(iter(data.loader("train", 4))))
    (text + code).backward()
    assert torch.isfinite(text + code) and net.mel_head.weight.grad.abs().sum() > 0


# exactly once


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("bucket", [True, False])
def test_every_clip_once_an_epoch(run, world, bucket):
    data = manager(run).dataset("train")
    orders = []
    for epoch in range(3):
        seen = [
            i
            for rank in range(world)
            for batch in EpochBatches(data, 4, bucket, epoch, rank, world)
            for i, e in batch
            if e == epoch
        ]
        assert sorted(set(seen)) == list(range(len(data))) and len(seen) < len(data) + world
        if world == 1:
            assert len(seen) == len(data)
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


def test_buckets_pad_less(run):
    data = manager(run).dataset("train")

    def padding(bucket):
        batches = [[data.lengths[i] for i, _ in b] for b in EpochBatches(data, 4, bucket)]
        return sum(max(b) * len(b) - sum(b) for b in batches)

    assert padding(True) < 0.5 * padding(False)


def test_a_sample_depends_on_nothing_but_its_name(run):
    one, two = manager(run).dataset("train"), manager(run).dataset("train")
    torch.manual_seed(1)
    np.random.seed(1)
    a = [one[(i, 5)] for i in range(len(one))]
    torch.manual_seed(2)
    np.random.seed(2)
    before = torch.get_rng_state()
    b = {i: two[(i, 5)] for i in reversed(range(len(two)))}
    assert torch.equal(before, torch.get_rng_state())
    assert all(
        torch.equal(a[i]["reference"], b[i]["reference"])
        and torch.equal(a[i]["text"], b[i]["text"])
        for i in b
    )
    assert any(
        not torch.equal(a[i]["reference"], one[(i, 6)]["reference"]) for i in range(len(one))
    )


def test_workers_give_the_same_batches(run):
    data = manager(run)
    for a, b in zip(data.loader("train", 8), data.loader("train", 8, workers=2), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# the reference


def test_the_reference_is_another_clip(run):
    "Prompts that are the clip itself teach to echo them (coqui #3122, #3032)."
    clips = manager(run).clips
    for i in clips.split("train"):
        others = {clips.other(i, 3, epoch) for epoch in range(20)}
        assert i not in others and len(others) > 3
        assert all(
            clips.rows[j].speaker_name == clips.rows[i].speaker_name
            and clips.rows[j].split == "train"
            for j in others
        )


def test_a_speaker_with_one_clip_is_announced(tmp_path):
    data = DataManager(
        segments(tmp_path, 5, speakers=("a", "b", "c", "d", "e")),
        Vocabulary(make_vocab("ka"), "ka"),
    )
    assert data.clips.other(2, 1, 0) == 2 and any("single training clip" in n for n in data.notes())


def test_prompt_mask_of_every_row(run):
    """coqui masks the last row only, at four times the place, and wipes its STOP (reference: coqui
    #3388)."""
    data = manager(run)
    batch = next(iter(data.loader("train", 8, frames=40, own_reference=True, prompt_mask=True)))
    for out, (a, b), n in zip(
        batch["codes_out"], batch["prompt"].tolist(), batch["code_lengths"].tolist()
    ):
        assert b > a and (out[a:b] == -100).all() and out[n] == 33 and (out[n + 1 :] == -100).all()
        assert (out[:a] >= 0).all() and (out[b:n] >= 0).all()
    assert not next(iter(data.loader("train", 8)))["prompt"].any()


# nothing in silence


@pytest.mark.parametrize(
    "change,counts",
    [
        ({f"c{i}": dict(text="latin only") for i in range(30)}, "30 text"),
        ({f"c{i}": dict(duration=99.0) for i in range(30)}, "30 too long"),
        ({f"c{i}": dict(text="დილა " * 200) for i in range(30)}, "30 text too long"),
        ({f"c{i}": dict(audio_file=f"wavs/gone{i}.wav") for i in range(30)}, "30 missing"),
        ({f"c{i}": dict(text="123") for i in range(30)}, "30 text"),  # digits are to be read first
        ({f"c{i}": dict(text="?!") for i in range(30)}, "30 no letters"),
    ],
)
def test_a_set_without_a_usable_clip_says_why(tmp_path, change, counts):
    "coqui's loader ends in a RecursionError or with length 0 (coqui #3229, #3303, #3198)."
    with pytest.raises(ManifestError, match=counts):
        DataManager(segments(tmp_path, **change), Vocabulary(make_vocab("ka"), "ka"))


def test_some_bad_clips_leave_the_others(tmp_path):
    data = DataManager(
        segments(
            tmp_path,
            c1=dict(text="latin"),
            c2=dict(duration=99.0),
            c3=dict(audio_file="wavs/gone.wav"),
            c4=dict(text="დილა " * 200),
        ),
        Vocabulary(make_vocab("ka"), "ka"),
    )
    assert [r.line for r in data.rejects] == [3, 4, 5, 6] and len(data.clips) == 26
    assert [r.reason.split(":")[0] for r in data.rejects] == [
        "text",
        "too long",
        "missing",
        "text too long",
    ]
    assert data.report()["parts"]["train"]["clips"] == 23 and "26 clips kept, 4 left out" in str(
        data
    )


def test_an_empty_part_is_an_error(run):
    data = manager(run)
    with pytest.raises(ManifestError, match="no clips in the part 'test'.*train"):
        data.loader("test")
    with pytest.raises(ManifestError, match="no samples"):
        CollateFunction()([])
    with pytest.raises(MissingError, match="segments stage"):
        DataManager(run / "init")
    with pytest.raises(MissingError, match="vocabulary"):
        DataManager(run / "segments").dataset()


def test_shelves_of_other_clips_are_refused(run):
    data = manager(run)
    segments(run / "more", 31)
    with pytest.raises(MissingError, match="not on the shelf"):
        DataManager(run / "more", init=run / "init").arrays()
    with pytest.raises(MissingError, match="29 runs|30 runs"):
        XTTSDataset(
            DataManager(run / "more", data.vocabulary).clips,
            data.vocabulary,
            codes=RaggedArray(run / "init/codes"),
        )


def test_filters_keep_runs_with_their_clips(run):
    whole, few = manager(run), manager(run, filters=FilterConfig(min_seconds=0.6))
    assert 0 < len(few.clips) < len(whole.clips)
    at = {whole.clips.key(i): i for i in range(len(whole.clips))}
    a, b = whole.arrays(), few.arrays()
    for i in range(len(few.clips)):
        j = at[few.clips.key(i)]
        assert (a["codes"][j] == b["codes"][i]).all() and (
            a["references"][j] == b["references"][i]
        ).all()


def test_little_data_and_no_validation_are_announced(tmp_path):
    data = DataManager(segments(tmp_path, 9), Vocabulary(make_vocab("ka"), "ka"))
    assert any("minutes of training speech" in n for n in data.notes()) and any(
        "validation" in n for n in data.notes()
    )


def test_import_leaves_torch_alone():
    """Importing coqui's data set sets torch's threads to one for the whole process, and patches
    transformers."""
    code = (
        "import torch; n = torch.get_num_threads(); import sys, xtts_ka.xtts.data; assert"
        " torch.get_num_threads() == n and 'TTS' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# the commands


def test_create_metadata_with_defaults_says_what_is_missing(tmp_path, monkeypatch):
    from argparse import ArgumentParser

    from xtts_ka.xtts.create_metadata_files import add_arguments, main

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    parser = ArgumentParser()
    add_arguments(parser)
    with pytest.raises(
        MissingError,
        match="xtts-ka embed --segmented_dir data/segmented --output_dir data/embeddings",
    ):
        main(parser.parse_args([]))


def test_create_metadata_with_defaults(tmp_path, monkeypatch):
    """From `data/segmented` by a store in `data/embeddings` to `data/split`, without an option;
    what comes out feeds a DataManager."""
    from argparse import ArgumentParser

    from xtts_ka.speaker.store import EmbeddingStore, Entry
    from xtts_ka.xtts.create_metadata_files import add_arguments, main

    monkeypatch.setenv("XTTS_KA_ROOT", str(tmp_path))
    segments(tmp_path / "data/segmented", 20)
    store = EmbeddingStore(tmp_path / "data/embeddings")
    for i in range(20):
        store.add(
            Entry(str(i), ["ნინო", "gio"][i % 2], f"../segmented/wavs/{i}.wav", config="c"),
            np.full(16, i + 1.0, np.float32),
        )
    store.finish([str(i) for i in range(20)])
    parser = ArgumentParser()
    add_arguments(parser)
    assert main(parser.parse_args([])) == 0
    made = read_manifest(tmp_path / "data/split")
    assert len(made.rows) == 20 and {r.split for r in made.rows} == {
        "train",
        "val",
    }  # the parts of the segments
    for r in made.rows:
        assert (
            np.load(tmp_path / "data/split" / r.extra["embedding"])[0]
            == int(Path(r.audio_file).stem) + 1
        )
    assert (
        DataManager("data/split", Vocabulary(make_vocab("ka"), "ka")).counts()["train"]["clips"]
        == 18
    )


def test_adapter_refuses_to_cast(tmp_path):
    from xtts_ka.core.errors import XttsKaError
    from xtts_ka.xtts.embedding_adapter import AdapterConfig, EmbeddingAdapter

    adapter = EmbeddingAdapter(AdapterConfig(output_dir=str(tmp_path)), object(), "none")
    for n in (192, 512, 768):
        with pytest.raises(XttsKaError, match=f"{n} numbers.*casting"):
            adapter.adapt(np.ones(n))


def test_filter_options_that_pass_nothing_are_refused():
    with pytest.raises(ConfigError, match="no clip could pass"):
        FilterConfig(min_pace=20, max_pace=10)
