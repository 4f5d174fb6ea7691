"""A host framework in three files, the size of a toy: it knows nothing of les-plugins."""

__version__ = "0.1.0"
