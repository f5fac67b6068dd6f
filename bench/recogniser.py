"""The independent recogniser: `python bench/recogniser.py train OUT` trains it (about 40 minutes
of CPU) and writes xtts_ka/data/recogniser_ka/;
`python bench/recogniser.py test` prints its errors on the voices that synthesis learns from, voice
by voice."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def train(out):
    import torch

    from xtts_ka.evaluate.recogniser import train_recogniser

    torch.set_num_threads(1)
    tokenizer = train_recogniser(out)
    # The file is in half precision, so that it is small: the errors printed are those of the file
    tokenizer.net.half().float()
    from safetensors.torch import load_file, save_file

    tokenizer.save(ROOT / "xtts_ka/data/recogniser_ka")
    path = ROOT / "xtts_ka/data/recogniser_ka/semantic.safetensors"
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path
    )


def test(sentences=20):
    from xtts_ka.corpus.sentences import recombine
    from xtts_ka.corpus.synthetic import VOICES, Synthesizer
    from xtts_ka.evaluate.recogniser import Recogniser, error_rate

    recogniser, speak, every = Recogniser(), Synthesizer(), []
    texts = recombine(sentences * len(VOICES), 91, min_words=2, max_words=5)
    for k, voice in enumerate(VOICES.values()):
        pairs = []
        for text in texts[k * sentences : (k + 1) * sentences]:
            said = speak.speak(text, voice)
            pairs.append((text, recogniser.transcribe(said.wav, said.sample_rate)))
        every += pairs
        print(f"{voice.name:10} {error_rate(pairs)[0]:6.1%}")
    print("all        {:6.1%}  ({:.1%} to {:.1%})".format(*error_rate(every)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"] and len(sys.argv) == 3:
        train(sys.argv[2])
    elif sys.argv[1:] == ["test"]:
        test()
    else:
        sys.exit(__doc__)
