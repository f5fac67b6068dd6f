"""Import it before nbformat: its schemas then load without the grammar that takes a second."""

from xtts_ka.core.processes import without_iri_grammar

without_iri_grammar()
