"""The everyday set spoken by a finished run, as the stage `evaluate` does it, without running the
stage: by kind and path, what is not understood.

python bench/everyday.py outputs/demo                              speak, judge, print; nothing in
the run is changed
python bench/everyday.py outputs/demo --out nbs/results/x.json     keep the summary there, with the
commit
python bench/everyday.py outputs/demo --texts 30 --mos_clips 0     fewer texts, no DistillMOS"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from compare import commit


def evaluate(run, texts, mos_clips, seed):
    "The test after it has spoken, and the flat metrics."
    from xtts_ka.core.config import build
    from xtts_ka.evaluate.chains import open_voices
    from xtts_ka.evaluate.config import EvaluateConfig
    from xtts_ka.evaluate.everyday import EverydayTest, run_options
    from xtts_ka.xtts.data import load_clips
    from xtts_ka.xtts.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(run / "xtts/vocab.json")
    clips, _ = load_clips(run / "segments", vocabulary)
    options = {"decode": run_options(run).get("evaluate", {}).get("decode", {})}
    cfg = build(EvaluateConfig, options | {"everyday": texts, "mos_clips": mos_clips})
    voices = open_voices(run, clips)
    with tempfile.TemporaryDirectory() as out:
        test = EverydayTest(
            cfg, run, clips, Path(out) / "evaluate", vocabulary.language, voices, seed
        )
        test.speak()
        return test, test.finish()


def kept(test, metrics, run, seconds):
    """What is written down: summary, how it was made, and what was heard of the texts that lost
    most."""
    fields = ("path", "kind", "text", "heard", "stopped")
    worst = {}
    for path in dict.fromkeys(r["path"] for r in test.rows):
        mine = sorted(
            (r for r in test.rows if r["path"] == path), key=lambda r: -r["wrong"] / r["of"]
        )
        worst[path] = [{k: r[k] for k in fields} for r in mine[:8]]
    return {
        "run": run.name,
        **commit(),
        "cpu_seconds": round(seconds, 1),
        "metrics": metrics,
        "summary": test.summary,
        "worst": worst,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--texts", type=int, default=150, help="texts of the set, kinds in turn")
    parser.add_argument(
        "--mos_clips", type=int, default=60, help="of them judged by DistillMOS, each path; 0: none"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the draws")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    began = time.process_time()
    test, metrics = evaluate(args.run, args.texts, args.mos_clips, args.seed)
    if test.left_out:
        return print(test.left_out)
    from xtts_ka.evaluate.everyday_scores import everyday_row

    for s in test.summary:
        print("  ".join(f"{v}" for v in everyday_row(s).values()))
    seconds = time.process_time() - began
    print(
        test.note(),
        f"{seconds:.0f} CPU seconds, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB"
        " at most",
    )
    if args.out:
        from xtts_ka.core.files import write_json

        write_json(args.out, kept(test, metrics, args.run, seconds))


if __name__ == "__main__":
    main()
