"""XTTS's GPT learns to read: taught heads point after a short training, and a training that was
broken off ends in the same bits."""

import numpy as np
import pytest
import torch

from xtts_ka.core.loop import fit
from xtts_ka.core.manifest import Row
from xtts_ka.core.ragged import RaggedArray
from xtts_ka.corpus.clips import Clips
from xtts_ka.xtts.config import AlignmentConfig, GptConfig
from xtts_ka.xtts.gpt import start_from_codebook
from xtts_ka.xtts.train_gpt import GptTask
from xtts_ka.xtts.vocabulary import Vocabulary, make_vocab

LETTERS, CODES, A_LETTER = "აბგდევზთ", 24, 2


def speech(tmp_path, clips=24):
    """Clips whose codes spell their letters: two codes a letter, one of three variants each. Times
    are known."""
    rng = np.random.default_rng(0)
    rows, codes, times = [], [], {}
    for k in range(clips):
        text = "".join(rng.choice(list(LETTERS), 6))
        rows.append(
            Row(f"{k}.wav", text, "nino" if k % 2 else "gia", "val" if k % 6 == 5 else "train", 1.0)
        )
        codes.append(
            np.array(
                [3 * LETTERS.index(c) + rng.integers(3) for c in text for _ in range(A_LETTER)]
            )
        )
        seconds = np.arange(len(text) + 1) * A_LETTER * 1024 / 22050
        times[f"{k}.wav"] = np.stack([seconds[:-1], seconds[1:]], 1)
    total = sum(map(len, codes))
    frames = [rng.standard_normal((4 * len(c), 80)).astype(np.float32) for c in codes]
    return {
        "clips": Clips(rows, tmp_path),
        "codes": RaggedArray.write(tmp_path / "codes", codes, total),
        "references": RaggedArray.write(tmp_path / "references", frames, 4 * total),
        "mels": RaggedArray.write(tmp_path / "mels", frames, 4 * total),
        "times": times,
    }


def task_of(data, steps=8, times="auto", **options):
    cfg = GptConfig(
        layers=2,
        dim=64,
        heads=2,
        max_text=20,
        max_codes=30,
        reference_frames=32,
        optimizer="muon",
        references=2,
        alignment=AlignmentConfig(times=times),
        dropout=0.0,
        **options,
    )
    loop = cfg.loop
    loop.steps, loop.batch_size, loop.warmup, loop.seed, loop.lr = steps, 8, 2, 3, 3e-3
    loop.save_every = loop.validate_every = 4
    vocabulary = Vocabulary(make_vocab("ka"), "ka")
    known = data["times"] if times == "auto" else {}
    return GptTask(
        cfg,
        data["clips"],
        vocabulary,
        data["codes"],
        data["references"],
        torch.ones(80),
        CODES,
        mels=data["mels"],
        times=known,
        vectors=torch.randn(CODES, 8, generator=torch.Generator().manual_seed(0)),
    )


class Broken(Exception):
    "Instead of a kill."


def breaking(task, step):
    after = task.after_step

    def broken(now):
        after(now)
        if now == step:
            raise Broken

    task.after_step = broken
    return task


@pytest.mark.parametrize("times", ["auto", "forward_sum"])
def test_a_broken_training_ends_in_the_same_bits(tmp_path, times):
    data = speech(tmp_path)
    whole = task_of(data, times=times)
    fit(whole, whole.cfg.loop, tmp_path / "whole", "GPT")
    broken = task_of(data, times=times)
    with pytest.raises(Broken):
        fit(breaking(broken, 6), broken.cfg.loop, tmp_path / "broken", "GPT")
    again = task_of(data, times=times)
    result = fit(again, again.cfg.loop, tmp_path / "broken", "GPT")
    assert result.resumed_from == 4
    for (name, a), b in zip(
        whole.net.state_dict().items(), again.net.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_taught_heads_point(tmp_path):
    data = speech(tmp_path, 48)
    task = task_of(data, steps=120)
    before = task.models() and task.score(task.val)["point"]
    fit(task, task.cfg.loop, tmp_path / "out", "GPT")
    after = task.score(task.val)["point"]
    assert after > 0.9 and after > before + 0.3, (before, after)


def test_heads_of_a_base_are_found(tmp_path):
    data = speech(tmp_path)
    taught = task_of(data, steps=80)
    fit(taught, taught.cfg.loop, tmp_path / "out", "GPT")
    cfg, heads = taught.cfg, taught.heads
    found = GptTask(
        cfg,
        data["clips"],
        taught.vocabulary,
        data["codes"],
        data["references"],
        torch.ones(80),
        CODES,
        start=lambda: taught.net,
        times=data["times"],
        about=["base"],
    )
    found.models()
    assert sorted(found.heads) == sorted(heads)


def test_corruption_is_keyed_and_spares_targets(tmp_path):
    task = task_of(speech(tmp_path), corrupt=0.5)
    task.models()
    batch = task.collate([task.item(k, 2) for k in range(4)])
    assert torch.equal(
        batch["codes_in"], task.collate([task.item(k, 2) for k in range(4)])["codes_in"]
    )
    wrong = (batch["codes_in"][:, 1:] != batch["codes_out"][:, :-1]) & (
        batch["codes_out"][:, :-1] < CODES
    )
    assert 0.2 < wrong[batch["codes_out"][:, :-1] >= 0].float().mean() < 0.8
    assert torch.equal(batch["codes_out"][0, :12], torch.from_numpy(task.codes[task.train[0]]))


def test_like_codes_start_alike():
    from xtts_ka.xtts.gpt import make_gpt

    gpt = make_gpt(GptConfig(layers=1, dim=64, heads=2), 10, 1, 0, 16)
    vectors = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).repeat(
        2, 1
    )  # code k sounds as code k + 8
    start_from_codebook(gpt, vectors, 1)
    rows = torch.nn.functional.normalize(gpt.mel_embedding.weight[:16].detach(), dim=1)
    cosine = rows @ rows.T
    pairs = cosine[torch.arange(8), torch.arange(8) + 8]
    assert pairs.mean() > 0.4 > cosine[:8, :8].fill_diagonal_(0).abs().mean()
    assert 0.01 < float(gpt.mel_embedding.weight[:16].std()) < 0.03
