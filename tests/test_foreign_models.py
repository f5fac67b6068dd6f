"""Model folders of strangers: no code of theirs runs, and what is wrong is said in one line."""

import json

import pytest

from xtts_ka.core.errors import XttsKaError


def test_code_beside_a_speech_model_is_not_run_whatever_is_answered(tmp_path, monkeypatch):
    from xtts_ka.sovits.features import _load_hubert

    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    ran = tmp_path / "it ran"
    (tmp_path / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(ran)!r}).touch()\n"
        "from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor\n"
        "class C(PretrainedConfig): model_type = 'evil'\n"
        "class M(PreTrainedModel): config_class = C\n"
        "class F(SequenceFeatureExtractor): pass\n"
    )
    own = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoFeatureExtractor": "evil.F"}
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "evil", "auto_map": own}))
    with pytest.raises(XttsKaError):
        _load_hubert(str(tmp_path), 9)
    assert not ran.exists() and not asked
