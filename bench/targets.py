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

# Rows whose own way is bfloat16, or bytes with bfloat16 beside them; where that is emulated, they
# are measured and bound to nothing
WITH_BFLOAT16 = {
    *("embed", "embed_fast", "vocoder_v1", "vocoder_v2"),
    *("xtts_full_int8", "xtts_full_int8_batch", "xtts_full_int8_two_threads"),
}

# Today's level, with some room, where bfloat16 is multiplied by AVX-512 and not by AMX, which these
# rows live by; their targets are for all processors
WITHOUT_AMX = {
    "embed": {"usual script": 1 / 1.6},
    "embed_fast": {"usual script": 1 / 2.1},
    "vocoder_step_bf16_v1": {"published order, 32-true": 1 / 1.7},
    "vocoder_v1": {"coqui": 1 / 2.0},
}

HELD_BY = {  # Row -> what its time goes into, by a profile; shown while a target is not reached
    "manifest": "Making 20,000 rows is a third of the time, taking the lines apart a fifth, looking"
    " for signs and blanks at fault a fifth, the search for links a tenth.",
    "audio": "libsndfile and soxr, which librosa calls as well, take seven "
    "tenths; the MD5 of the samples, which librosa does not "
    "compare, a tenth, and opening the file for it and the checks "
    "of finiteness and level the rest.",
    "normalize": "Regular expressions and Python for each sentence, against C.",
    "bpe": "The library's learning of merges (`train_from_iterator`) is "
    "half of the time; the other half is Python a text: the Unicode"
    " pattern that splits it, and a call of the library a piece.",
    "cold_normalize": "Compiling some 160 regular expressions of the rules and "
    "running the modules' bodies; pydantic is not loaded any more.",
    "cold_help": "The interpreter's own start is two fifths; argparse, pathlib "
    "and the finders of extras and old names are the rest.",
    "embed": "By a profile on an EPYC without AMX: products in bfloat16 by oneDNN are 73 % of the "
    "time, attention 9 %, the convolution of positions 4 %, copies 4 %. With AMX the products are "
    "faster, and the row is met.",
    "embed_fast": "By a profile on an EPYC without AMX: products in 8 bits are 35 % of the time, "
    "those in bfloat16 33 %, attention 12 %, convolution of positions and copies 5 % each. With "
    "AMX `auto` takes bfloat16 throughout, and the row is met.",
    "xtts_full_int8": "The GPT's steps are 62 % of the CPU time (int8), the waveform decoder 38 %.",
    "xtts_full_int8_batch": "The GPT's steps are 60 % of the CPU time, the waveform decoder"
    " 40 %: its work grows with each sentence, however many share a"
    " pass of the weights.",
    "xtts_full_int8_two_threads": "On an EPYC a second thread makes the GPT's steps 1.4 times as "
    "fast by the clock for 1.4 times the CPU time, since one row of matrices is little to divide; "
    "the waveform decoder is 1.9 times as fast at the same CPU time.",
    "xtts_first_sound": "The text's pass through all layers alone takes as much CPU as "
    "four codes and more (0.31 s of 3.5 s in the GPT for 48 codes),"
    " and eight codes and a piece of waveform follow before any "
    "sound.",
    "vocoder_step_bf16_v1": "Backward passes of convolutions are 49 % of the step, forward "
    "passes 15 %, copies between types 9 %, weight norm 7 %.",
    "vocoder_v1": "Convolutions by oneDNN in bfloat16 are 75 to 80 % of the time,"
    " leaky ReLUs 13 %, additions 6 %.",
    "sovits_speech": "By a profile six tenths are the autoregressive model, two thirds of that "
    "its layers, one row a step; a third is the decoder, half of that the refining rounds of the "
    "spectral head (`fast_griffin_lim`). Products of matrices are 46 % of everything.",
    "run_cpu": "Of the last recorded run's CPU minutes sovits2 took 38 %, "
    "full_pretrain 32 %, evaluate 13 %, xtts_init 7 %.",
    "run_wall": "sovits2 and full_pretrain, 38 and 32 % of the CPU minutes of "
    "the last recorded run, two stages at a time on two cores.",
    "make_test": "By a profile in CPU seconds: the cells of 220 of 256 notebooks 232, "
    "a seventh of it drawing; the smoke run 120, a third of it stage evaluate, of which imports "
    "and drawing are nearly half, and its last four stages again in the test that kills it; the "
    "tests of decoding 55, those of the road from raw recordings 43.",
}


def judged(ratios: dict, bounds: dict) -> dict:
    "Peer -> how many times the bound its figure is, of those above it."
    return {p: ratios[p] / most for p, most in bounds.items() if p in ratios and ratios[p] > most}
