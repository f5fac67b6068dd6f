"""The vocoder's generators against the libraries whose checkpoints they read: coqui-tts,
transformers, and SpeechBrain where it is installed."""

import warnings

import pytest

torch = pytest.importorskip("torch")

from xtts_ka.core.randomness import seeded_step, torch_rng
from xtts_ka.vocoder.checkpoint import load_generator, save_generator
from xtts_ka.vocoder.config import HIFIGAN, GeneratorConfig, MelConfig
from xtts_ka.vocoder.features import LogMel
from xtts_ka.vocoder.generators import (
    PUBLISHED,
    FastGenerator,
    HifiganGenerator,
    n_parameters,
    remove_weight_norm,
)

FRAMES = 24


def a_mel(seed=0):
    return torch.randn(1, 80, FRAMES, generator=torch_rng(seed, "mel")) * 2 - 5


def ours(preset):
    seeded_step(0, "weights", preset)
    return HifiganGenerator.from_preset(preset).eval()


def coqui(preset, state=None):
    from TTS.vocoder.models.hifigan_generator import HifiganGenerator as Peer

    seeded_step(1, "weights", preset)
    sizes = dict(HIFIGAN[preset])
    peer = Peer(
        80,
        1,
        sizes["resblock"],
        sizes["resblock_dilation_sizes"],
        sizes["resblock_kernel_sizes"],
        sizes["upsample_kernel_sizes"],
        sizes["upsample_initial_channel"],
        sizes["upsample_rates"],
        inference_padding=0,
    ).eval()
    if state is not None:
        peer.load_state_dict(state, strict=True)
    return peer


@pytest.mark.parametrize("preset", ["v1", "v2", "v3"])
def test_equal_to_coqui_bit_for_bit(preset, tmp_path):
    "Ours in coqui's class, and coqui's in ours by way of a file."
    net, mel = ours(preset), a_mel()
    with torch.inference_mode():
        wav = net(mel)
        assert wav.shape == (1, FRAMES * 256)
        assert torch.equal(
            coqui(
                preset,
                torch.load(save_generator(tmp_path / "ours", net), weights_only=True)["generator"],
            )(mel)[:, 0],
            wav,
        )
        peer = coqui(preset)
        torch.save({"generator": peer.state_dict()}, tmp_path / "g_00000001")
        back = load_generator(tmp_path / "g_00000001")
        assert back.cfg == GeneratorConfig(preset=preset)
        assert torch.equal(back(mel), peer(mel)[:, 0])
        assert not torch.equal(back(mel), wav)


@pytest.mark.parametrize("preset", ["v1", "v2", "v3"])
def test_round_trip_is_exact(preset, tmp_path):
    net = ours(preset)
    assert n_parameters(remove_weight_norm(net).requires_grad_()) == PUBLISHED[preset]
    back = load_generator(save_generator(tmp_path, net, step=3), mel=MelConfig())
    assert back.cfg == net.cfg and list(back.state_dict()) == list(net.state_dict())
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in back.state_dict().items())


def test_published_initialisation_has_no_effect():
    """Drawing from N(0, 0.01) after weight norm was put on, as the published code does, leaves the
    layer as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = torch.nn.utils.weight_norm(torch.nn.Conv1d(8, 8, 3))
    x = a_mel()[:, :8]
    before = layer(x)
    layer.weight.data.normal_(0.0, 0.01)
    assert torch.equal(layer(x), before)


def audible(net):
    "Random weights whisper: scale the last layer so that the waveform is loud."
    with torch.no_grad():
        mel = LogMel(net.mel)(torch.randn(1, 60 * 256, generator=torch_rng(0, "noise")) * 0.1)
        net.conv_post.weight_g.mul_(0.5 / net(mel).std())
    return net, mel


@pytest.mark.parametrize("preset", ["v2", "v3"])
def test_bfloat16_is_near(preset):
    net, mel = audible(ours(preset))
    wav, log_mel = net.generate(mel), LogMel(net.mel)
    exact, half = (FastGenerator(net, p).generate(mel) for p in ("float32", "bfloat16"))
    assert (exact - wav).abs().max() < 1e-4
    assert (log_mel(half) - log_mel(wav)).abs().mean() < 0.05
    assert wav.square().sum() / (half - wav).square().sum() > 10**4  # 40 dB


def test_transformers_folder_is_read(tmp_path):
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    v2 = HIFIGAN["v2"]
    peer = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            sampling_rate=22050,
            upsample_initial_channel=v2["upsample_initial_channel"],
            upsample_rates=v2["upsample_rates"],
            upsample_kernel_sizes=v2["upsample_kernel_sizes"],
            resblock_kernel_sizes=v2["resblock_kernel_sizes"],
            resblock_dilation_sizes=v2["resblock_dilation_sizes"],
            normalize_before=False,
        )
    ).eval()
    peer.save_pretrained(tmp_path)
    net = load_generator(tmp_path)
    assert net.cfg == GeneratorConfig(preset="v2") and not net.weight_norm
    with torch.inference_mode():
        assert torch.allclose(net(a_mel()), peer(a_mel().transpose(1, 2)), atol=1e-6)


def test_speechbrain_file_is_read(tmp_path):
    lobes = pytest.importorskip("speechbrain.lobes.models.HifiGAN")
    v3 = HIFIGAN["v3"]
    peer = lobes.HifiganGenerator(
        80,
        1,
        v3["resblock"],
        v3["resblock_dilation_sizes"],
        v3["resblock_kernel_sizes"],
        v3["upsample_kernel_sizes"],
        v3["upsample_initial_channel"],
        v3["upsample_rates"],
        inference_padding=0,
    ).eval()
    torch.save(peer.state_dict(), tmp_path / "generator.ckpt")
    net = load_generator(tmp_path)
    assert net.cfg == GeneratorConfig(preset="v3", padding="reflect")
    with torch.inference_mode():
        assert torch.allclose(net(a_mel()), peer(a_mel())[:, 0], atol=1e-6)
