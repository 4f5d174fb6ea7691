"""How a command of `les-plugins` ended, for tests that run it in their own process (fixture `les_plugins_command`)."""

from __future__ import annotations

from typing import NamedTuple


class Done(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    output: str
    errors: str
