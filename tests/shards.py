"""Data sets in the form of the hub, made here: the columns, types and notes of `datasets` that
google/fleurs and the mirrors of Common Voice have."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xtts_ka.core.audio import encode_audio

KA = ["დილა მშვიდობისა.", "ხვალ წავალთ.", "მოვიდა 5 კაცი.", "რა ამინდია?"]
AUDIO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
CLASSES = {"gender": ["male", "female", "other"], "lang_id": ["en_us", "ka_ge"]}


def sound(n, rate=16000, kind="wav"):
    "A tone of 0.3 s as the bytes of a file."
    wav = 0.3 * np.sin(np.arange(int(0.3 * rate)) * (0.05 + 0.01 * n))
    return encode_audio(wav.astype(np.float32), rate, kind)


def _feature(name, kind):
    if name in CLASSES and pa.types.is_integer(kind):
        return {"names": CLASSES[name], "_type": "ClassLabel"}
    if kind == AUDIO:
        return {"sampling_rate": 16000, "_type": "Audio"}
    return {"dtype": "string" if kind == pa.string() else str(kind), "_type": "Value"}


def table(columns, noted=True):
    "A table of {name: (type, values)}, with what `datasets` notes about its columns."
    schema = pa.schema([(name, kind) for name, (kind, _) in columns.items()])
    if noted:
        features = {name: _feature(name, kind) for name, (kind, _) in columns.items()}
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return pa.table({name: values for name, (_, values) in columns.items()}, schema=schema)


def fleurs_table(rows, noted=True):
    "google/fleurs: rows are (id, file, sound, text as written, gender)."
    ids, files, sounds, texts, genders = zip(*rows)
    plain = [t and t.rstrip(".?").lower() for t in texts]
    return table(
        {
            "id": (pa.int32(), ids),
            "num_samples": (pa.int32(), [4800] * len(rows)),
            "path": (pa.string(), [f"/home/who/.cache/{f}" for f in files]),
            "audio": (AUDIO, [{"bytes": b, "path": f} for f, b in zip(files, sounds)]),
            "transcription": (pa.string(), plain),
            "raw_transcription": (pa.string(), texts),
            "gender": (pa.int64(), genders),
            "lang_id": (pa.int64(), [1] * len(rows)),
            "language": (pa.string(), ["Georgian"] * len(rows)),
            "lang_group_id": (pa.int64(), [2] * len(rows)),
        },
        noted,
    )


def cv_table(rows):
    "A mirror of Common Voice: rows are (client, file, sound, text, up, down, gender, locale)."
    who, files, sounds, texts, up, down, genders, locales = zip(*rows)
    return table(
        {
            "client_id": (pa.string(), who),
            "path": (pa.string(), files),
            "audio": (AUDIO, [{"bytes": b, "path": f} for f, b in zip(files, sounds)]),
            "sentence": (pa.string(), texts),
            "up_votes": (pa.int64(), up),
            "down_votes": (pa.int64(), down),
            "age": (pa.string(), ["thirties"] * len(rows)),
            "gender": (pa.string(), genders),
            "accent": (pa.string(), [""] * len(rows)),
            "locale": (pa.string(), locales),
            "segment": (pa.string(), [""] * len(rows)),
        }
    )


def write(path, made, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, **options)


def fleurs(root):
    "Two parts of google/fleurs as the hub has it: four rows to use, and one without sound."
    for part, n in (("train", 3), ("test", 1)):
        rows = [(i, f"{part}/{i}.wav", sound(i), KA[i], i % 2) for i in range(n)]
        rows += [(9, "test/9.wav", None, "არა.", 0)] * (part == "test")
        write(root / f"ka_ge/{part}-00000-of-00001.parquet", fleurs_table(rows))
    return root, 5
