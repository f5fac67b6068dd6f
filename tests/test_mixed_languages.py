"""Texts of several languages: every command reads each part by the rules of its language."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from xtts_ka.core.errors import XttsKaError
from xtts_ka.sovits.infer import PromptEncoder
from xtts_ka.sovits.semantic import CharVocabulary
from xtts_ka.text.letters import LETTERS
from xtts_ka.text.mixed import mixed
from xtts_ka.vocoder.infer import in_words

NO_TORCH = """
import sys
sys.modules["torch"] = None  # Importing it fails
import importlib, pkgutil
import xtts_ka.text
needs = {"g2p_neural", "language_transformer", "stage_language"}
for m in pkgutil.iter_modules(xtts_ka.text.__path__):
    if m.name not in needs:
        importlib.import_module(f"xtts_ka.text.{m.name}")
print("fine")
"""


def encoder(language, letters):
    "A prompt encoder that only prepares texts."
    tokenizer = SimpleNamespace(letters=CharVocabulary(" " + letters))
    bpe = SimpleNamespace(encode=lambda text: [0])
    return PromptEncoder(tokenizer, None, bpe, language, texts={"ends": "."})


@pytest.mark.parametrize("language", ["ka", "mul"])
def test_gpt_sovits2_keeps_every_language(language):
    model = encoder(language, LETTERS + "abcdefghijklmnopqrstuvwxyz")
    words, warnings = model.normalize("I have 3 cats, მე კი 2 ძაღლი მყავს.")
    assert words == "I have three cats, მე კი ორი ძაღლი მყავს." and not warnings


def test_what_a_model_never_learned_is_said():
    model = encoder("ka", LETTERS)
    words, (warning,) = model.normalize("გამარჯობა, 你好 და Hello!")
    assert words == "გამარჯობა, 你好 და Hello!"  # nothing dropped, nothing in Georgian letters
    assert "never learned" in warning and "你" in warning and "Latin" in warning
    with pytest.raises(XttsKaError, match="never learned"):
        model.normalize("Hello")
    model.foreign = "transliterate"
    assert model.normalize("Hello")[0] == "ჰელოუ"


def test_a_model_of_another_language_reads_its_numbers():
    assert encoder("de", "abcdefghijklmnopqrstuvwxyzäöüß").normalize("12 Tage")[0] == "zwölf Tage"


def test_vocoder_generate_says_what_it_reads_in_georgian_letters():
    said = in_words("ვნახე YouTube", LETTERS)
    assert said.text == "ვნახე იუთუბი" and "never learned" in said.warnings[0]
    assert [p.language for p in in_words("დილა, good morning").parts] == ["ka", "en"]


@pytest.mark.parametrize(
    "text",
    ["XIX საუკუნე, 5 kg და 10:30", "ლუი XIV-მ 2024 წელს ა.შ.", "α-ნაწილაკი, 20 °C, USD 50"],
)
def test_georgian_writing_in_other_letters_is_georgian(text):
    assert mixed(text).text == mixed(text, "transliterate").text


def test_text_imports_without_torch():
    done = subprocess.run([sys.executable, "-c", NO_TORCH], capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr
