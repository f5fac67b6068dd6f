"""The shape of Piper's medium voices, run as Piper runs them: VITS in ONNX Runtime, with random
weights. Speed does not depend on their values.

Architecture: Kim et al. (2021), "Conditional Variational Autoencoder with Adversarial Learning for
End-to-End Text-to-Speech", from transformers' `VitsModel` in Piper's sizes (hidden 192, filter 768,
6 layers of 2 heads, 4 coupling layers, stochastic duration predictor; upsampling 8, 8, 4 from 256
channels; 22,050 Hz). transformers has HiFi-GAN's residual blocks of type 1 only, so those of the
waveform decoder are replaced by type 2 here. What is approximated: the vocabulary has Piper's 256
symbols, but a text is drawn at random, as many ids as Piper makes of it; weights of weight norm are
folded, as in Piper's own export; and durations of random weights mean nothing, so the length scale
is set until the sound is as long as is asked for, which is what an id of a trained voice lasts."""

import tempfile
import warnings
from pathlib import Path

RATE, HOP, SYMBOLS = 22050, 256, 256
PHONEMES = 12.5  # A second of speech; Piper puts a blank between any two


def residual(channels, kernel, dilations):
    "HiFi-GAN's residual block of type 2: a convolution a dilation (Kong et al. 2020, table 5, V3)."
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(
                nn.Conv1d(channels, channels, kernel, padding=d * (kernel - 1) // 2, dilation=d)
                for d in dilations
            )

        def forward(self, x):  # [B, channels, T]
            for conv in self.convs:
                x = x + conv(torch.nn.functional.leaky_relu(x, 0.1))
            return x

    return Residual()


def medium():
    "transformers' VITS in the sizes of Piper's medium voices, with random weights."
    from torch import nn
    from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
    from transformers import VitsConfig, VitsModel

    from xtts_ka.core.randomness import seeded_step

    seeded_step(1, "bench piper")
    kernels, dilations = [3, 5, 7], [[1, 2], [2, 6], [3, 12]]
    cfg = VitsConfig(
        vocab_size=SYMBOLS,
        hidden_size=192,
        ffn_dim=768,
        num_hidden_layers=6,
        num_attention_heads=2,
        flow_size=192,
        spectrogram_bins=513,
        upsample_initial_channel=256,
        upsample_rates=[8, 8, 4],
        upsample_kernel_sizes=[16, 16, 8],
        resblock_kernel_sizes=kernels,
        resblock_dilation_sizes=dilations,
        sampling_rate=RATE,
    )
    net = VitsModel(cfg).eval()
    net.decoder.resblocks = nn.ModuleList(
        residual(256 // 2 ** (stage + 1), k, d)
        for stage in range(3)
        for k, d in zip(kernels, dilations)
    )
    for module in net.modules():
        if is_parametrized(module, "weight"):
            remove_parametrizations(module, "weight")
    return net.eval()


def exported(folder):
    "The network as Piper has it: ids [1, N] and scales [3] to a waveform [1, T]. Path of the file."
    import torch
    from torch import nn

    class Piper(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, ids, scales):  # scales: noise, length, noise of the durations
            self.net.noise_scale, self.net.noise_scale_duration = scales[0], scales[2]
            self.net.speaking_rate = 1 / scales[1]
            return self.net(ids, attention_mask=torch.ones_like(ids)).waveform

    path = Path(folder) / "piper.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of branches that the sizes here do not take
        torch.onnx.export(
            Piper(medium()),
            (torch.randint(1, SYMBOLS, (1, 60)), torch.tensor([0.667, 8.0, 0.8])),
            str(path),
            input_names=["input", "scales"],
            output_names=["output"],
            dynamic_axes={"input": {1: "phonemes"}, "output": {1: "samples"}},
            opset_version=17,
            dynamo=False,
        )
    return path


class Voice:
    "A voice of Piper's medium shape in ONNX Runtime, one thread, that speaks so many seconds."

    def __init__(self, seconds):
        import onnxruntime

        from xtts_ka.core.randomness import rng

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            path = exported(folder)
            self.net = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        count = 2 * round(PHONEMES * seconds) + 1  # With the blanks
        self.ids = rng(0, "bench piper").integers(1, SYMBOLS, (1, count))
        self.scale = 4.0
        for _ in range(4):
            self.scale *= seconds / (self.speak() / RATE)

    def speak(self):
        "Samples spoken."
        import numpy as np

        scales = np.array([0.667, self.scale, 0.8], np.float32)
        return self.net.run(None, {"input": self.ids, "scales": scales})[0].shape[-1]
