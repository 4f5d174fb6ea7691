"""A host's own command in a process of its own: one line that says why it failed, and Ctrl-C that lets it finish.

Adapters whose host owns its whole process, as those on Hydra do, call `run_module`; the child is this module too.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from les_plugins.errors import HostError, InterruptionError, in_one_line, innermost

#: Where the host's log goes: standard output is for the summary that `--json` asks for.
_STANDARD_ERROR = 2
#: Seconds that the host has for its own end after Ctrl-C.
_PATIENCE = 30.0
#: Environment variable that names the file for an error: one line that says what it was, then its traceback.
_REPORT = "LES_PLUGINS_REPORT"


def run_module(
    name: str,
    module: str,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    folder: Path,
    source: str,
    kept: Callable[[], str],
) -> None:
    """Run `python -m MODULE ARGUMENTS` and wait for its end.

    Args:
        name: of the command as its users know it, such as "nequip-train", for messages.
        module: the program, such as "nequip.scripts.train".
        arguments: its command line.
        variables: environment variables beside those of this process.
        folder: of the run; a traceback is kept there if it exists.
        source: the config file, for messages.
        kept: says what a user has of the run so far.

    Raises:
        HostError: the command failed.
        InterruptionError: Ctrl-C or SIGTERM.
    """
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report"
        call = [sys.executable, "-m", __name__, module, *arguments]
        environment = {**os.environ, **variables, _REPORT: str(report)}
        process = subprocess.Popen(call, stdout=_STANDARD_ERROR, env=environment)
        try:
            status = process.wait()
        except KeyboardInterrupt as stop:
            _wait_for_the_end(process)
            number = signal.SIGINT if type(stop) is KeyboardInterrupt else signal.SIGTERM
            text = f"{source}: stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}; {kept()}"
            raise InterruptionError(text, 128 + number) from None
        if not status:
            return
        reason, _, trace = report.read_text(encoding="utf-8").partition("\n") if report.is_file() else ("", "", "")
    text = f"{source}: {name} ended with status {status}" + f": {reason}" * bool(reason)
    if trace and folder.is_dir():
        file = folder / f"{name}.traceback"
        file.write_text(trace, encoding="utf-8")
        text += f" (its traceback: {file})"
    raise HostError(f"{text}; {kept()}")


def _wait_for_the_end(process: subprocess.Popen[bytes]) -> None:
    """The host may be writing, and has had the same Ctrl-C in a terminal only (Lightning heeds the first); a second one
    that we get ends it."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(_PATIENCE)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        process.kill()
        process.wait()


def _child() -> None:
    """The module named first on the command line as the program of this process, exit code 1 where it raises."""
    module = sys.argv.pop(1)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        text = f"{in_one_line(innermost(error))}\n{traceback.format_exc()}"
        Path(os.environ[_REPORT]).write_text(text, encoding="utf-8")
        sys.exit(1)


if __name__ == "__main__":
    _child()
