"""A host framework in one file, whose model differentiates its own energy: it knows nothing of les-plugins."""

__version__ = "0.1.0"
