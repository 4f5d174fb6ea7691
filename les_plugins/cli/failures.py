"""Failures of the machine, which the command line says in one line."""

from __future__ import annotations


def is_out_of_memory(error: RuntimeError) -> bool:
    """PyTorch says so in an exception of its own on a GPU, and in the text of a plain one on a CPU."""
    texts = ("not enough memory", "can't allocate memory")
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in texts)
