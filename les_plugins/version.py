"""The version: pyproject.toml, checkpoints, trajectories and reports take it from here."""

__version__ = "0.1.0"
