"""Are two runs the same to the bit? python tools/digests.py outputs/smoke outputs/other

Compared are model files, vocabularies, codes, tokens, embeddings and metrics; left out is what
names the run or the clock: paths, times, configurations, logs and the report."""

import hashlib
import json
import re
import sys
from pathlib import Path

KINDS = (".safetensors", ".pth", ".pt", ".npy", ".npz", ".tsv", ".csv", ".json", ".wav", ".onnx")
APART = re.compile(
    r"(^|/)(report|notebooks|logs|checkpoints|monitor|\.old)/|pretrain_progress|config\.(json|yaml)"
    r"|export\.json|\.digests|index\.csv|xtts_config|rejects|spoken\.tsv|heard\.json|hub\.json"
)
CLOCK = re.compile(
    r"second|minute|CPU|time|speed|wall|memory|of these|path|file|folder|made_of|digest", re.I
)


def steady(value):
    "A JSON value without what names a place or a time."
    if isinstance(value, dict):
        return {k: steady(v) for k, v in sorted(value.items()) if not CLOCK.search(k)}
    return [steady(v) for v in value] if isinstance(value, list) else value


def digest(path):
    "Of a file's content."
    if path.suffix == ".json":
        text = json.dumps(steady(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(run):
    "Path in the run -> digest."
    run = Path(run)
    found = [p for p in sorted(run.rglob("*")) if p.is_file() and p.suffix in KINDS]
    names = {p.relative_to(run).as_posix(): p for p in found}
    return {name: digest(p) for name, p in names.items() if not APART.search(name)}


def main(args):
    if len(args) != 2:
        sys.exit(__doc__)
    one, other = map(digests, args)
    apart = [n for n in sorted({*one, *other}) if one.get(n) != other.get(n)]
    print("\n".join(apart[:40]))
    print(f"{len({*one, *other}) - len(apart)} of {len({*one, *other})} files are the same")
    sys.exit(bool(apart))


if __name__ == "__main__":
    main(sys.argv[1:])
