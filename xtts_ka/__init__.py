__version__ = "0.1.0"

from .core.extras import install as install_extras
from .moved import install as install_moved

install_extras()
install_moved()
del install_extras, install_moved
