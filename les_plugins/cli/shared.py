"""What the commands share: a quiet host, the model with its provenance, a progress bar on stderr."""

from __future__ import annotations

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from les_plugins.errors import ConfigError, DataError, HostError

if TYPE_CHECKING:
    from ase import Atoms

    from les_plugins.data.frames import Boundaries

T = TypeVar("T")

#: Argument of the commands that take a single model, and of those that take several as one.
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="Checkpoint folder of les-plugins, or a model of the zoo.", show_default=False
    ),
]
ModelOrCommittee = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="Checkpoint folder, model of the zoo, or file of a committee.", show_default=False
    ),
]
#: Option of every command that evaluates a model.
Head = Annotated[str | None, typer.Option(help="Of a model with several heads, the one to use.", show_default=False)]
#: Option of the commands whose results the precision of the network can show in.
Dtype = Annotated[
    str | None,
    typer.Option(help="float32 or float64, of the host's network; as it was saved by default.", show_default=False),
]
#: s, of wall time, between lines of progress in a log file.
SECONDS_BETWEEN_LINES = 60.0

#: Warnings of hosts about their own insides, which a user of a command can do nothing about (start of the message).
_HOST_WARNINGS = (
    "Environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD detected",
    "The TorchScript type system doesn't support instance-level annotations",
    "`torch.jit",
)
#: Lines that hosts print for the same kind of reason.
_HOST_LINES = ("cuequivariance or cuequivariance_torch is not available",)


def beside(output: Path, *suffixes: str) -> tuple[Path, ...]:
    """Files NAME.csv, NAME.png of one --output NAME, which may end in one of the suffixes itself.

    Args:
        output: as given.
        suffixes: such as "csv", in the order of the files.
    """
    name = without_suffix(output, *suffixes)
    return tuple(output.with_name(f"{name}.{suffix}") for suffix in suffixes)


def without_suffix(output: Path, *suffixes: str) -> str:
    """The NAME in --output NAME, which may end in the suffix of a file that is written."""
    return output.stem if output.suffix.lower().removeprefix(".") in suffixes else output.name


@contextlib.contextmanager
def quiet_host(target: TextIO | None = None) -> Iterator[None]:
    """Keep stdout for the command's own result: what a host prints goes to `target`, and its known noise nowhere.

    Args:
        target: where to; standard error when None.
    """
    stream = _WithoutNoise(target or sys.stderr)
    with warnings.catch_warnings():
        for message in _HOST_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            with contextlib.redirect_stdout(cast(TextIO, stream)):
                yield
        finally:
            stream.close()


class _WithoutNoise(io.TextIOBase):
    """Passes whole lines on as they come, but those that hosts print about their own insides."""

    def __init__(self, target: TextIO) -> None:
        self._target, self._begun = target, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if not line.startswith(_HOST_LINES):
                self._target.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self._target.flush()

    def isatty(self) -> bool:
        return self._target.isatty()

    def close(self) -> None:
        if self._begun:
            self.write("\n")
        super().close()


def open_model(
    path: Path,
    device: str,
    epsilon_infinity: float | None = None,
    head: str | None = None,
    dtype: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The ASE calculator of a checkpoint folder, and what identifies the model in reports.

    Args:
        path: the folder, the name of a model of the zoo, or the file of a committee.
        device: torch device.
        epsilon_infinity: ε_∞ in the place of the model's own, or None.
        head: of a model with several heads, the one to use.
        dtype: "float32" or "float64"; as the model was saved when None.

    Raises:
        CheckpointError, HostError, DeviceError: see `les_plugins.load`.
        ConfigError: ε_∞ below 1, or for a model that it does not change.
    """
    from les_plugins import api
    from les_plugins.committee import is_committee
    from les_plugins.devices import check_device
    from les_plugins.storage import checkpoint, zoo

    check_device(device)
    if epsilon_infinity is not None and not 1.0 <= epsilon_infinity < float("inf"):
        raise ConfigError(f"--epsilon-infinity is {epsilon_infinity}; allowed: a number of at least 1")
    if is_committee(path):
        return _open_committee(path, device, epsilon_infinity, head, dtype)
    path = zoo.resolve(path)
    calculator = api.load(path, device=device, head=head, dtype=dtype)
    config = checkpoint.read_config(path)
    if epsilon_infinity is not None:
        if config["long_range"] is None:
            raise HostError(f"--epsilon-infinity: {path} has no long-range part")
        calculator.epsilon_infinity = epsilon_infinity
    facts = {
        "path": str(path),
        "weights_sha256": checkpoint.sha256(path / checkpoint.WEIGHTS),
        "config_sha256": checkpoint.sha256(path / checkpoint.CONFIG),
        "host": config["host"],
        "versions": config["versions"],
        "les_plugins": config["les_plugins"],
        "long_range": config["long_range"],
        "epsilon_infinity": epsilon_infinity or config["epsilon_infinity"],
        **({} if head is None else {"head": head}),
        **({} if dtype is None else {"dtype": dtype}),
    }
    return calculator, facts


def _open_committee(
    path: Path, device: str, epsilon_infinity: float | None, head: str | None, dtype: str | None
) -> tuple[Any, dict[str, Any]]:
    """As `open_model`, of a committee: its weights are those of all members, which its file has the hashes of."""
    from les_plugins import api
    from les_plugins.committee import description
    from les_plugins.storage import checkpoint
    from les_plugins.version import __version__

    calculator = api.load(path, device=device, head=head, dtype=dtype)
    if epsilon_infinity is not None:
        if not calculator.has_long_range:
            raise HostError(f"--epsilon-infinity: {path} has a member without a long-range part")
        calculator.epsilon_infinity = epsilon_infinity
    members = description.read(path)
    return calculator, {
        "path": str(path),
        "weights_sha256": checkpoint.sha256(path),
        "host": "committee",
        "members": [
            {"model": m.model, "host": m.host, "weights_sha256": m.weights_sha256, "config_sha256": m.config_sha256}
            for m in members
        ],
        "les_plugins": __version__,
        "long_range": None,
        "epsilon_infinity": calculator.epsilon_infinity,
        **({} if dtype is None else {"dtype": dtype}),
    }


def one_crystal(file: Path) -> Atoms:
    """The one structure of a file.

    Raises:
        DataError: more than one frame.
    """
    from les_plugins.data.frames import read_frames

    frames = read_frames(file)
    if len(frames) != 1:
        raise DataError(f"{file}: holds {len(frames)} frames; allowed: one")
    return frames[0]


def one_frame(file: Path, index: int) -> Atoms:
    """One of the structures of a file.

    Raises:
        DataError: there is no frame of that number.
    """
    from les_plugins.data.frames import read_frames

    frames = read_frames(file)
    if not -len(frames) <= index < len(frames):
        raise DataError(f"{file}: has no frame {index}; it has {len(frames)}")
    return frames[index]


def say_boundaries(source: str | Path, boundaries: Boundaries) -> None:
    """On stderr, which boundary each structure is computed with."""
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"{source}: {boundaries}")


def progress(items: Iterable[T], total: int | None, text: str, done: int = 0) -> Iterator[T]:
    """The items, with a bar on stderr where that is a terminal, and a line there every minute where it is not.

    Args:
        items: what is worked on.
        total: how many there are; None where nobody knows.
        text: what they are.
        done: how many more were done before, in an earlier sitting.
    """
    everything = None if total is None else total + done
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from _with_lines(items, everything, text, done)
        return
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        yield from bar.track(items, total=everything, completed=done, description=text)


def _with_lines(items: Iterable[T], everything: int | None, text: str, done: int) -> Iterator[T]:
    """For log files: how far, of how many, and how long what is left will take at the pace of this sitting."""
    began = last = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) - last < SECONDS_BETWEEN_LINES:
            continue
        last = now
        of = ""
        if everything is not None:
            left = (everything - done - number) * (now - began) / number
            of = f" of {everything}, {timedelta(seconds=round(left))} left"
        print(f"{text}: {done + number}{of}", file=sys.stderr, flush=True)  # noqa: T201
