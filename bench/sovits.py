"""GPT-SoVITS2: a row of `make bench` (writing tokens with and without a cache), and what is no row.

`python bench/sovits.py tokenizer SEGMENTS OUT [KEY=VALUE ...]`: trains the tokenizer and prints its errors on seen voices and strangers, use of codes and CPU seconds.
`python bench/sovits.py written SEGMENTS OUT CONFIG [KEY=VALUE ...]`: trains tokenizer and autoregressive model as CONFIG says (configs/sovits/demo_long.yaml, say; what `xtts-ka sovits train-ar` has left in OUT is taken), lets it write the held-out sentences, and adds a row to nbs/results/sovits.json.
`python bench/sovits.py compare SEGMENTS OUT`: layouts, codebook counts and the way codes enter, each trained alike; writes nbs/results/sovits.json, which nbs/sovits/compare.ipynb shows.
`python bench/sovits.py fusion RUN_DIR`: mixes two voices of a finished run (stages speaker_encoder and sovits2) and adds the curve to that file.
SEGMENTS is a folder as the stage `segments` leaves it, for example outputs/demo/segments."""
import json, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT/"nbs/results/sovits.json"
TOKENS = 500

# the row

def cache():
    "An untrained model of the demonstration's size writes 500 tokens; the cache changes none of them (tests/test_sovits.py)."
    import torch
    from compare import Row, cpu
    from xtts_ka.core.randomness import seeded_step, torch_rng
    from xtts_ka.sovits.ar import ArModel, Segment
    from xtts_ka.sovits.config import ArConfig, QuantizerConfig, SamplingConfig, TextConfig
    from xtts_ka.sovits.quantize import Quantizer
    from xtts_ka.sovits.sample import write
    from xtts_ka.sovits.text import TextEncoder
    torch.set_num_threads(1)
    seeded_step(0, "bench")
    net = ArModel(ArConfig(), TextEncoder(TextConfig(), 512), Quantizer(QuantizerConfig(levels=[4, 4, 4, 4]), 192)).eval()
    sampling = SamplingConfig(temperature=1., min_per_piece=TOKENS / 25, max_per_piece=TOKENS / 25)
    go = lambda cached: write(net, [[Segment(list(range(300, 325)))]], sampling, [torch_rng(0, "bench")], cached)
    assert len(go(True)[0].codes) == TOKENS
    return Row(f"writing {TOKENS} tokens, {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters", lambda: cpu(go, True), {"without a cache": lambda: cpu(go, False)}, {"without a cache": 1 / 5},
               "the same tokens; one thread", [net])

ROWS = dict(sovits_cache=cache)

# what is no row

def stage(segments, out, **options):
    from xtts_ka.core.config import build
    from xtts_ka.core.paths import resolve
    from xtts_ka.sovits.stage import Sovits2Stage
    from xtts_ka.sovits.stage_config import Sovits2Config
    return Sovits2Stage(build(Sovits2Config, options), resolve(segments), resolve(out), 1)

VOICES, TEXT = dict(voices=8, strangers=2, voice_clips=60), dict(vocab_size=300)

def tokenizer(segments, out, overrides):
    import torch
    from xtts_ka.core.config import to_dict
    from xtts_ka.sovits.stage_config import load_sovits
    torch.set_num_threads(1)
    cfg = to_dict(load_sovits(None, [*(f"prepare.{k}={v}" for k, v in VOICES.items()), *overrides]))
    s = stage(segments, out, prepare=cfg["prepare"], text=cfg["text"], semantic=cfg["semantic"])
    s.prepare()
    result = s.train_tokenizer()
    for k, v in s.tokenise().items(): print(f"{k:28} {v:.4f}")
    print(f"{result.step} steps, {result.cpu_seconds:.0f} CPU s")

def freely(s, sampling):
    "What a stage's model writes for the held-out sentences of the seen voices, and what its tokenizer reads in it."
    from xtts_ka.sovits.semantic import plain
    from xtts_ka.sovits.train_semantic import char_error_rate
    rows, start = s.seen(), time.process_time()
    written = s.ar_task.write(rows, sampling)
    spent = time.process_time() - start
    read = s.tokenizer.texts([w.codes for w in written])
    return {"CER of what is written": char_error_rate((plain(s.clips.rows[i].text), t) for i, t in zip(rows, read)), "sentences": len(rows), "stopped": sum(w.stopped for w in written) / len(rows),
            "tokens a CPU second": sum(len(w.codes) for w in written) / spent, "length ratio": sum(len(w.codes) for w in written) / sum(len(s.codes[i]) for i in rows)}

def written(segments, out, config, overrides):
    import torch
    from xtts_ka.core.paths import resolve
    from xtts_ka.sovits.config import SamplingConfig
    from xtts_ka.sovits.stage import Sovits2Stage
    from xtts_ka.sovits.stage_config import load_sovits
    torch.set_num_threads(1)
    cfg = load_sovits(config, overrides)
    s = Sovits2Stage(cfg, resolve(segments), resolve(out), cfg.seed, cfg.language)
    s.prepare()
    tokens = s.train_tokenizer()
    kept = dict(s.tokenise())
    result = s.train_ar()
    row = {"preset": Path(config).stem, **{k: v for k, v in kept.items()}, "tokenizer, CPU seconds": tokens.cpu_seconds, "autoregressive, CPU seconds": result.cpu_seconds, **freely(s, SamplingConfig(temperature=0)), "sampled": freely(s, cfg.sampling)["CER of what is written"]}
    keep(presets=[r for r in held().get("presets", []) if r["preset"] != row["preset"]] + [row])
    for k, v in row.items(): print(f"{k:34} {v:.4f}" if isinstance(v, float) else f"{k:34} {v}")

def variant(name, segments, out, shared, semantic, ar):
    "Train tokenizer (or take that of `shared`) and autoregressive model; a row of figures."
    from xtts_ka.sovits.config import SamplingConfig
    s = stage(segments, Path(out)/shared, prepare=VOICES, text=TEXT, semantic=semantic, ar=ar)
    s.prepare(); s.train_tokenizer()
    kept = dict(s.tokenise())
    s.out = Path(out)/name
    result = s.train_ar()
    task = s.ar_task
    loss, right = task.score((task.val or task.train)[:96])
    free = freely(s, SamplingConfig(temperature=0))
    return {"variant": name, "tokens' CER": kept["CER of tokens, seen voices"], "codes' perplexity": kept["codes perplexity"], "nats a token": loss * s.tokenizer.books, "guessed right": right,
            **{k: free[k] for k in ("CER of what is written", "stopped", "tokens a CPU second")}, "CPU seconds": result.cpu_seconds, "steps": result.step}

def compare(segments, out):
    import torch
    torch.set_num_threads(1)
    loop = dict(steps=320, validate_every=0, save_every=320)
    semantic = lambda **q: dict(quantizer=q, dropout=.05, loop=dict(steps=450, validate_every=0, save_every=450))
    one, ar = semantic(levels=[4, 4, 4, 4]), dict(loop=loop, free_run=0)
    table = [("interleaved", "one", one, ar), ("no pointer", "one", one, ar | dict(pointer=False)), ("text_first", "one", one, ar | dict(layout="text_first")), ("learned table", "one", one, ar | dict(codes_in="learned")),
             ("2 codebooks, delay", "two", semantic(levels=[4, 4], codebooks=2), ar), ("4 codebooks, delay", "four", semantic(levels=[4], codebooks=4), ar)]
    for name, shared, sem, a in table:
        keep(variants=[r for r in held().get("variants", []) if r["variant"] != name] + [row := variant(name, segments, out, shared, sem, a)])
        print("  ".join(f"{k}: {v:.3g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()), flush=True)

def fusion(run_dir):
    import numpy as np, torch
    from xtts_ka.core.paths import resolve
    from xtts_ka.sovits.fusion import fusion_curve
    from xtts_ka.sovits.infer import Reference, load_model
    from xtts_ka.core.manifest import read_manifest
    from xtts_ka.speaker.encoders import SpeakerEncoder, load_encoder
    torch.set_num_threads(1)
    run = resolve(run_dir)
    model, judge = load_model(run/"sovits2/model"), SpeakerEncoder(load_encoder(run/"speaker_encoder"), "ecapa", "cpu")
    manifest = read_manifest(run/"segments", check_audio=False)
    train = lambda s: next(manifest.audio_path(r) for r in manifest.rows if r.speaker_name == s and r.split == "train" and r.duration > 2.5)
    names = sorted({r.speaker_name for r in manifest.rows})[:2]
    texts = list(dict.fromkeys(r.text for r in manifest.rows if r.split == "test"))[:8]
    a, b = (model.hear([Reference(train(n))])[0] for n in names)
    rows = [{k: v for k, v in r.items() if k != "said"} for r in fusion_curve(model, a, b, texts, judge.embed, judge.sample_rate)]
    keep(fusion={"voices": names, "sentences": len(texts), "curve": rows})
    for r in rows: print("  ".join(f"{k}: {v:.2f}" for k, v in r.items()))

def held(): return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
def keep(**values): RESULTS.write_text(json.dumps(held() | values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["tokenizer"]: tokenizer(words[1], words[2], words[3:])
    elif words[:1] == ["written"]: written(words[1], words[2], words[3], words[4:])
    elif words[:1] == ["compare"]: compare(words[1], words[2])
    elif words[:1] == ["fusion"]: fusion(words[1])
    else:
        from compare import main
        main(ROWS)
