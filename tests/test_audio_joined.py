"""Recordings that were joined byte by byte: refused, never read to the end of the first."""

import numpy as np
import pytest
import soundfile as sf

from xtts_ka.core.audio import read_audio
from xtts_ka.core.errors import AudioError

RATE = 24000


def recording(path, seconds, **kind):
    tone = 0.3 * np.sin(np.arange(int(seconds * RATE)) / 20)
    sf.write(path, tone.astype(np.float32), RATE, **kind)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".ogg", ".opus", ".mp3", ".flac", ".aiff", ".wav"])
def test_a_second_recording_is_not_lost_without_a_word(tmp_path, suffix):
    kind = dict(format="OGG", subtype="OPUS") if suffix == ".opus" else {}
    one = recording(tmp_path / f"one{suffix}", 1, **kind)
    two = recording(tmp_path / f"two{suffix}", 0.5, **kind)
    assert len(read_audio(tmp_path / f"one{suffix}")[0]) == RATE
    tag = b"ID3\4\0\0\0\0\0\12" + b"\0" * 10
    for between in (b"", tag, b"TAG" + b" " * 125) if suffix == ".mp3" else (b"",):
        (tmp_path / f"both{suffix}").write_bytes(one + between + two)
        with pytest.raises(AudioError) as found:
            read_audio(tmp_path / f"both{suffix}")
        assert found.value.reason == "corrupt" and "joined" in found.value.detail
    if suffix == ".mp3":  # Tags alone are no second recording
        (tmp_path / "tagged.mp3").write_bytes(tag + one + b"TAG" + b" " * 125)
        assert len(read_audio(tmp_path / "tagged.mp3")[0]) == RATE
