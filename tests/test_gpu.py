"""What runs on a GPU, as far as a processor can tell: the same tokens on fixed buffers, no tensor
of the CPU among those of the GPU, and bench/gpu.py in small."""

import json
import sys

import pytest
import torch
from test_decode import prompts, random_gpt, same_as_coqui
from torch._subclasses.fake_tensor import FakeTensorMode

from xtts_ka.core.errors import ConfigError
from xtts_ka.core.randomness import rng
from xtts_ka.xtts import static
from xtts_ka.xtts.config import GptConfig
from xtts_ka.xtts.fast import FastGPT, Session
from xtts_ka.xtts.gpt import gpt_forward, gpt_losses, make_gpt, quicken, sequences
from xtts_ka.xtts.static import Slate, StaticGPT, StaticSession, open_gpt


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_fixed_buffers_say_what_coqui_says():
    gpt = random_gpt(2, 32, 2, most=250, stop=-9.0)
    equal, worst, lengths = same_as_coqui(gpt, [StaticGPT(gpt)], prompts(2, 60), 240)
    assert equal == [2] and worst < 1e-4
    assert max(lengths) > 200  # past the first 256 slots, into larger buffers


def test_buffers_go_from_one_batch_to_the_next():
    engine = StaticGPT(random_gpt(2, 32, 2))
    first, second = engine.session(), engine.session()
    with torch.inference_mode():
        for session in (first, second):
            session.start([torch.randn(1, 40, 32)] * 3)
    held = first.slate
    assert held is not second.slate and held.rows == 4
    del first
    third = engine.session()
    with torch.inference_mode():
        third.start([torch.randn(1, 50, 32)] * 4)
    assert third.slate is held
    with pytest.raises(ConfigError, match="int8 runs on a CPU"):
        StaticSession(FastGPT(random_gpt(1, 32, 2), "int8"))


def test_buffers_that_wait_are_bounded(monkeypatch):
    "A server meets texts of many sizes; the one left last stays, however large it is."
    engine = StaticGPT(random_gpt(1, 32, 2, most=900))
    batches = [1, 2, 4, 8, 16]

    def speak(rows, length=40):
        session = engine.session()
        with torch.inference_mode():
            session.start([torch.randn(1, length, 32)] * rows)

    for rows in batches:
        speak(rows)
    waiting = engine.slates.free
    one = waiting[0].bytes
    assert [s.rows for s in waiting] == batches and one == 2 * 256 * 32 * 4
    monkeypatch.setattr(static, "KEPT", 12 * one)
    speak(16)
    assert [s.rows for s in waiting] == [4, 8, 16]
    monkeypatch.setattr(static, "KEPT", 0)
    speak(2)
    assert [s.rows for s in waiting] == [2]
    engine.slates.clear()
    assert not waiting


def test_where_the_memory_ends_what_waits_makes_room(monkeypatch):
    engine = StaticGPT(random_gpt(1, 32, 2))
    session = engine.session()
    with torch.inference_mode():
        session.start([torch.randn(1, 40, 32)])
    del session

    class Full(Slate):
        def __init__(self, *args):
            if engine.slates.free:
                raise torch.OutOfMemoryError("no room")
            super().__init__(*args)

    monkeypatch.setattr(static, "Slate", Full)
    session = engine.session()
    with torch.inference_mode():
        session.start([torch.randn(1, 40, 32)] * 8)
    assert session.slate.rows == 8 and not engine.slates.free


def test_an_engine_that_is_dropped_takes_its_buffers_along():
    "Not only when the garbage collector comes by: a GPU has no room for two."
    import gc
    import weakref

    engine = StaticGPT(random_gpt(1, 32, 2))
    session = engine.session()
    with torch.inference_mode():
        session.start([torch.randn(1, 40, 32)])
    slate = weakref.ref(session.slate)
    gc.disable()
    try:
        del session, engine
        assert slate() is None
    finally:
        gc.enable()


def test_a_compiled_step_is_asked_for_by_an_option(pretended, monkeypatch):
    asked = []
    monkeypatch.setattr(static, "compiled_step", lambda: asked.append(1) or static.layer_step)
    engine = open_gpt(pretended.eval(), "bfloat16", compiled=True)
    session = engine.session()
    with torch.inference_mode():
        session.start([torch.zeros(1, n, 32, device="cuda") for n in (40, 44)])
        session.step(torch.zeros(2, 1, 32, device="cuda"))
    assert asked


def test_speaking_takes_the_option_and_says_where_it_means_nothing(tmp_path, capsys):
    from xtts_ka.pipeline.cli import main
    from xtts_ka.speech.voice import load
    from xtts_ka.xtts.base import write_random_base

    base = write_random_base(tmp_path / "base", "tiny", text_rows=300)
    with pytest.raises(ConfigError, match="compiled: only the step on an NVIDIA GPU"):
        load(base, device="cpu", language="en", compiled=True)
    with pytest.raises(ConfigError, match="own modules"):
        load(base, device="cpu", language="en", precision=None, compiled=True)
    words = ["speak", "good morning", "--model", str(base), "--language", "en", "--compiled"]
    words += ["--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "a.wav")]) == 2
    assert "compiled: only the step" in capsys.readouterr().err


# ---- no GPU, but tensors that say they are on one: a mixture of devices is an error


@pytest.fixture
def pretended(monkeypatch):
    "`torch` as on a GPU, without values; what is made without naming a device is on the CPU."
    monkeypatch.setattr(Slate, "_record", Slate._compute)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            gpt = make_gpt(GptConfig(layers=2, dim=32, heads=2, max_text=60), 60, 1, 0, 64)
        yield gpt


def test_decoding_stays_on_the_gpu(pretended):
    for precision in ("float32", "bfloat16"):
        engine = open_gpt(pretended.eval(), precision)
        session = engine.session([(1, 0)])
        assert isinstance(session, StaticSession)
        session.heads = ()  # a fake tensor cannot say whether its texts differ in length
        with torch.inference_mode():
            prefixes = [torch.zeros(1, n, 32, device="cuda") for n in (40, 44, 38)]
            x = torch.zeros(3, 1, 32, device="cuda")
            found = [session.start(prefixes), session.step(x)]
            session.keep([0, 2])
            session.at = 256  # full
            found.append(session.step(x[:2]))
        assert [(str(f.device), *f.shape) for f in found] == [
            ("cuda:0", 3, 32),
            ("cuda:0", 3, 32),
            ("cuda:0", 2, 32),
        ]
        assert len(session.slate.slots) == 512
        with pytest.raises(RuntimeError, match="device"):
            session.step(x[:2].cpu() + session.slate.x[:2])


def test_a_training_step_stays_on_the_gpu(pretended):
    draw = rng(1, "clips")
    text = [torch.zeros(int(n), dtype=torch.long) for n in draw.integers(3, 9, 4)]
    codes = [torch.zeros(int(n), dtype=torch.long) for n in draw.integers(9, 20, 4)]
    net = quicken(pretended).train()
    batch = {**sequences(text, codes, net), "reference": torch.zeros(4, 80, 60)}
    batch = {k: v.to("cuda") for k, v in batch.items()}
    out = gpt_forward(net, batch, [[0, 1], [1, 0]])  # with alignment heads
    found = [*gpt_losses(net, batch), out.scores, out.latents]
    assert {str(x.device) for x in found} == {"cuda:0"}


def test_a_cpu_keeps_its_session():
    assert type(open_gpt(random_gpt(1, 32, 2)).session()) is Session


# ---- the measurement


@pytest.fixture
def bench(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "bench"))
    import gpu

    yield gpu
    for name in ("gpu", "vocoder", "compare"):
        sys.modules.pop(name, None)


def test_all_parts_in_small(bench, tmp_path, capsys):
    path = tmp_path / "gpu.json"
    assert bench.main(["--small", "--json", str(path)]) == 0, capsys.readouterr().err
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record["parts"]) == list(bench.PARTS) and record["device"].startswith("CPU")
    assert record["promises"] == {}  # nothing is promised of a CPU
    decoding = record["parts"]["decoding"]
    assert {r["way"] for r in decoding["rows"]} >= {"coqui", "ours, bfloat16", "ours, float32"}
    assert {r["way"] for r in decoding["first sound"]} >= {"coqui", "ours, float32"}
    near = decoding["agreement"]["least cosine of latents"]
    assert near["float32"] > 0.99999 and near["bfloat16"] > 0.999
    assert set(record["parts"]["training"]["best"]) == {"ours", "coqui", "coqui, float32"}
    assert len(record["parts"]["sovits"]["rows"]) == 5


def test_a_failed_part_is_named_and_the_others_stay(bench, tmp_path, capsys, monkeypatch):
    def broken(b):
        raise RuntimeError("no such kernel")

    path = tmp_path / "gpu.json"
    monkeypatch.setattr(bench, "PARTS", {"a": (lambda b: {"rows": []}, 1), "b": (broken, 1)})
    assert bench.main(["a", "--small", "--json", str(path)]) == 0
    assert bench.main(["b", "--small", "--json", str(path)]) == 1
    assert "no such kernel" in capsys.readouterr().err
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    assert "error" not in parts["a"] and parts["b"]["error"] == "RuntimeError: no such kernel"
    with pytest.raises(SystemExit):
        bench.main(["c"])
    assert "unknown part c; there are a, b" in capsys.readouterr().err


def late(make):
    def made(b, small, minutes):
        make(b, small, -1)
        b.small = False  # in small there is always time

    return made


def test_what_cannot_be_measured_is_no_ratio(bench, tmp_path, monkeypatch, capsys):
    "Every way fails or is out of memory; a file of figures from elsewhere has no parts."

    def broken(*_):
        raise RuntimeError("no such kernel")

    ways = {n: (broken, *rest) for n, (_, *rest) in bench.TRAININGS.items() if n != "coqui"}
    monkeypatch.setattr(bench, "TRAININGS", ways)
    found = bench.training(bench.Bench(True, 1))
    assert found["ratio"] is None and "no such kernel" in str(found["rows"])
    path = tmp_path / "gpu.json"
    monkeypatch.setattr(bench, "PARTS", {"a": (lambda b: {"rows": [{"x": float("nan")}]}, 1)})
    record = bench.about(bench.Bench(True, 1), "")
    path.write_text(json.dumps({"device": record["device"], "small": True}), encoding="utf-8")
    assert bench.main(["a", "--small", "--json", str(path)]) == 0
    assert json.loads(path.read_text(encoding="utf-8"))["parts"]["a"]["rows"] == [{"x": "nan"}]
    monkeypatch.setattr(bench.Bench, "__init__", late(bench.Bench.__init__))
    path.unlink()
    assert bench.main(["a", "--json", str(path)]) == 1  # the time is over before it begins
    assert "no time was left" in capsys.readouterr().err


def test_promises_are_of_the_best_way(bench):
    rows = [
        {"way": "coqui", "sentences at once": 1, "audio seconds a second": 2.0},
        {"way": "ours", "sentences at once": 8, "audio seconds a second": 50.0},
        {"way": "ours", "sentences at once": 32, "audio seconds a second": 19.0},
    ]
    found = bench.ratios(rows)
    assert found["ratio"] == 9.5 and found["times coqui"]["ours, 8 at once"] == 25.0
    kept = bench.verdict({"decoding": found, "training": {"ratio": 2.1}}, small=False)
    assert not kept["decoding"]["kept"] and kept["training"]["kept"]
    assert bench.ratios(rows[1:]) == {"ratio": None}
