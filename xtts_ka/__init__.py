__version__ = "0.1.0"


def load(path, *args, **kwargs):
    "A run, a model's folder or a name on the hub as a voice: see `xtts_ka.speech.voice.load`."
    from .speech.voice import load

    return load(path, *args, **kwargs)


from .core.extras import install as install_extras
from .moved import install as install_moved

install_extras()
install_moved()
del install_extras, install_moved
