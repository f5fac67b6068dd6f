"""The export's speaker encoder is the run's own in XTTS's form, and the decoder learns from guests;
without a trained encoder there is a placeholder, and it says so."""

import numpy as np
import pytest
import torch
from test_pretrain import DECODER, GPT, LOOP, initialize

from xtts_ka.core.audio import write_audio
from xtts_ka.core.config import build
from xtts_ka.core.errors import ConfigError
from xtts_ka.core.manifest import Row, write_manifest
from xtts_ka.corpus.synthetic import SAMPLE_RATE, Synthesizer

TEXTS = ("დილა მშვიდობისა", "როგორ ხარ?", "კარგად ვარ", "ნახვამდის", "გმადლობ", "სად მიდიხარ?")
ENCODER = dict(crops=4, max_seconds=1.5, loop=dict(steps=4, save_every=2, log_every=2))


def spoken(folder):
    "Two voices say a few sentences: a folder as the stage segments leaves it."
    synthesizer, rows = Synthesizer(), []
    for k, text in enumerate(TEXTS):
        name = ("nino", "giorgi")[k % 2]
        wav = synthesizer.speak(text, name).wav
        write_audio(folder / f"wavs/{k}.wav", wav, SAMPLE_RATE)
        rows.append(
            Row(f"wavs/{k}.wav", text, name, "train" if k < 5 else "val", len(wav) / SAMPLE_RATE)
        )
    write_manifest(
        folder / "metadata.csv", rows, ("audio_file", "text", "speaker_name", "split", "duration")
    )


ACOUSTIC = dict(dim=32, blocks=1, loop=dict(steps=2, batch_size=2, save_every=1, validate_every=2))


def trained(run, name, guests=0.5):
    "A stage full_pretrain whose GPT is trained and whose voices are made."
    from xtts_ka.xtts.config import PretrainConfig
    from xtts_ka.xtts.stage import Pretrain

    cfg = dict(
        gpt=dict(**GPT, loop=dict(steps=2, lr=2e-3, **LOOP)),
        decoder=DECODER | dict(voice_parts=3),
        encoder=ENCODER,
        acoustic=ACOUSTIC | dict(guests=guests, voice_parts=3),
        guests=dict(voices=4),
        voice_seconds=2.0,
    )
    stage = Pretrain(build(PretrainConfig, cfg), run / "segments", run / "xtts_init", run / name, 1)
    stage.gpt()
    stage.compute_speaker_latents()
    return stage


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("clone")
    spoken(run / "segments")
    initialize(run / "segments", run / "xtts_init", "ka")
    return run


def test_without_a_trained_encoder_the_placeholder_says_so(run, capsys):
    with pytest.raises(ConfigError, match="acoustic.guests"):  # Before anything is trained
        trained(run, "refused", guests=0.5)
    assert not (run / "refused").exists()
    stage = trained(run, "without", guests=0)
    stage.latents()
    assert stage.learned is None and stage.guests is None
    assert len(stage.sound_data(0.5)[0]) == len(TEXTS)
    assert "xtts-ka run --only speaker_encoder" in capsys.readouterr().out


def test_the_export_hears_what_the_run_hears(run):
    from xtts_ka.speaker.config import EncoderConfig
    from xtts_ka.speaker.ecapa import new_ecapa
    from xtts_ka.speaker.encoders import save_encoder
    from xtts_ka.xtts.acoustic import load_acoustic
    from xtts_ka.xtts.distil import narrow_vectors
    from xtts_ka.xtts.export import load_stock

    save_encoder(
        run / "speaker_encoder",
        new_ecapa(EncoderConfig(channels=16, dim=24, mels=40, attention=16, squeeze=16), 3),
    )
    stage = trained(run, "with")
    stage.latents()
    clips, latents, vectors = stage.sound_data(0.5)
    assert (
        len(stage.guests.of) == 4
        and len(clips) > len(TEXTS)
        and set(vectors) == {"nino", "giorgi", *stage.guests.clips.speakers}
    )
    assert latents[len(TEXTS)].shape[1] == GPT["dim"] and np.array_equal(
        latents[2], stage.sound_data(0.5)[1][2]
    )
    stage.acoustic()
    stage.decoder()
    stock = load_stock(stage.export(run / "xtts", "two voices"))
    z, _, told = stage.decoder_task.pair(
        0
    )  # the voice as components, where the export takes the vector
    vector = stage.speakers[stage.clips.rows[0].speaker_name]["speaker_embedding"]
    with torch.inference_mode():
        ours, stocks = (
            stage.decoder_task.net(z[None], g=told[None]),
            stock.hifigan_decoder.waveform_decoder(z[None], g=vector),
        )
    assert stage.decoder_task.space is not None and torch.allclose(ours, stocks, atol=1e-5)
    wav = stage.clips.wav(0)
    theirs = stock.get_speaker_embedding(wav[None], 22050)
    assert (
        torch.nn.functional.cosine_similarity(theirs, narrow_vectors(stage.narrow, [wav])[0]).item()
        > 0.99
    )
    assert "ECAPA" in (run / "xtts/MODEL_CARD.md").read_text(encoding="utf-8")
    kept = load_acoustic(run / "xtts")  # It takes vectors, as everybody has them
    assert kept.cfg.guests == 0.5
    assert torch.linalg.matrix_rank(kept.blocks[0].voice.weight) == 3  # Components, folded
