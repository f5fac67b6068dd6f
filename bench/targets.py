"""What the rows of `make bench` aim at, and what holds a row that is not there yet.

A row has two numbers for a peer. Its *promise* stands in the row itself: today's level with some
room, and a row above it is red and makes the exit status 1, for something has become slower. Its
*target* stands here: where the project wants to be. A row above its target is amber, with the
sentence of `HELD_BY` that names what its time goes into."""

ITSELF = "itself"  # A bound on our own figure, in the row's unit, and not on a ratio

TARGETS = {  # Row -> peer -> ratio ours / peer at most
    "manifest": {"pandas": 1.2},
    "audio": {"librosa.load": 1.0},
    "normalize": {"espeak-ng": 1.0},
    "bpe": {"sentencepiece": 1.5},
    "cold_help": {ITSELF: 0.15},
    "cold_normalize": {ITSELF: 0.4},
    "embed": {"usual script": 1 / 2},
    "embed_fast": {"usual script": 1 / 3},
    "xtts_full_int8": {"coqui": 1 / 5},
    "xtts_full_int8_batch": {"coqui": 1 / 9},
    "xtts_full_int8_two_threads": {"coqui": 1 / 4},
    "xtts_first_sound": {"whole": 0.08},
    "vocoder_step_bf16_v1": {"published order, 32-true": 1 / 2.2},
    "vocoder_v1": {"coqui": 1 / 2.6},
    "sovits_speech": {ITSELF: 0.03},
    "run_cpu": {ITSELF: 18.0},
    "run_wall": {ITSELF: 12.0},
    "make_test": {ITSELF: 6.5},
}

HELD_BY = {  # Row -> what its time goes into, by a profile; shown while a target is not reached
}


def judged(ratios: dict, bounds: dict) -> dict:
    "Peer -> how many times the bound its figure is, of those above it."
    return {p: ratios[p] / most for p, most in bounds.items() if p in ratios and ratios[p] > most}
