"""`les-plugins train mace`: MACE's own trainer, unchanged but for the model that it is given (seam.py)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from ase import Atoms
from mace.tools import build_default_arg_parser, get_tag
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from les_plugins.adapters.mace.data import read_data, reading
from les_plugins.adapters.mace.seam import Built, model_seam, run
from les_plugins.config import LongRangeConfig
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.section_name import SECTION, is_near_miss
from les_plugins.storage.training import did_you_mean
from les_plugins.training import TrainingRun

START = "start_from"


def train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any] | None = None) -> Path | None:
    """Train as `mace_run_train --config FILE ARGUMENTS` does, with the file's `long_range:` section in the model.

    Args:
        config_file: MACE's YAML file; without a `long_range:` section the model is MACE's alone. With `start_from:`
            training begins with the weights of a checkpoint of ours.
        arguments: MACE's own command-line options, which override the file.
        metadata: facts to keep in the checkpoint.

    Returns:
        The checkpoint folder `<model_dir>/<name>.les`, or None after a dry run.

    Raises:
        ConfigError: unknown keys in the file, a `long_range:` section that cannot be used, or an unsupported option.
        DataError: training or validation frames that cannot be used.
        DeviceError: a device that this machine does not have.
    """
    training = MACETraining(config_file, arguments, metadata)
    folder = training.run()
    if folder is not None and (stopped := training.stopped) is not None:
        raise HostError(f"{stopped}; the training had come to its end, and its model is in {folder}") from stopped
    return folder


class MACETraining(TrainingRun):
    """`mace_run_train`, with its model configured by ours (seam.py)."""

    host = "mace"
    start: str | None = None
    stopped: HostError | None = None

    def names(self) -> Collection[str]:
        """Heads, which the user names."""
        heads = self.settings.get("heads")
        return tuple(heads) if isinstance(heads, dict) else ()

    def split(self) -> None:
        """Take `start_from` out too, and read the rest as MACE's options."""
        super().split()
        start = self.settings.pop(START, None)
        if start is not None and not isinstance(start, str):
            raise ConfigError(f"{self.config_file}: {START} is {start!r}; expected a .les folder or a name of the zoo")
        self.start = start
        self.args = parse_arguments(self.settings, self.arguments, self.config_file)
        _refuse_unsupported(self.args, self.long_range, start)
        check_device(self.args.device)

    def target(self) -> Path:
        """`<model_dir>/<name>.les`."""
        return Path(self.args.model_dir or self.args.work_dir) / f"{self.args.name}.les"

    def read_frames(self) -> Sequence[Atoms]:
        """Of every head, with the keys that MACE reads."""
        self.found = read_data(self.args, self.long_range, self.config_file)
        return [atoms for frames in self.found.train.values() for atoms in frames]

    def files(self) -> tuple[list[Path], list[Path]]:
        """Files, and those of folders that MACE has prepared."""
        training = [file for path in [*self.found.train, *self.found.binary] for file in _files(path)]
        return training, [file for path in self.found.valid for file in _files(path)]

    def fit(self) -> nn.Module | None:
        """MACE's `run`."""
        with model_seam(self.long_range, self.start) as built, reading(self.found), _progress(built):
            self.stopped = run(self.args, built, self.config_file)
        if self.args.dry_run or built.model is None or not built.first:
            return None
        if self.found.binary:
            self.frames = built.frames()
        self.facts["last_validation"] = _last_validation(self.args)
        if self.start is not None:
            self.facts["start_from"] = Path(self.start).name
        return built.model

    def options(self) -> Mapping[str, Any]:
        """MACE's options without those of Weights & Biases, which are keys of one person."""
        options = {**vars(self.args), **self.found.keys}
        return {
            key: value for key, value in options.items() if not (key.startswith("wandb") or isinstance(value, Mapping))
        }

    def kept(self) -> Iterable[Path]:
        """MACE's own models."""
        return self.target().parent.glob(f"{self.args.name}*.model")


def parse_arguments(settings: Mapping[str, Any], arguments: Sequence[str], config_file: Path) -> Any:
    """MACE's argument namespace of its settings and further command-line options."""
    parser = build_default_arg_parser()
    known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    known_here = known | {SECTION, START}
    unknown = [key for key in settings if str(key) not in known]
    if unknown:
        raise ConfigError(
            f"{config_file}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], known_here)}; allowed: MACE's own "
            f"options (mace_run_train --help), {SECTION} and {START}"
        )
    stray = [item for item in arguments if item.startswith("--") and item[2:].split("=")[0] not in known]
    if stray:
        name = stray[0][2:].split("=")[0]
        if name in (SECTION, START) or is_near_miss(name):
            raise ConfigError(f"unknown option {stray[0]!r}: {SECTION} and {START} stand in the config file")
        raise ConfigError(f"unknown option {stray[0]!r}{did_you_mean(name, known)}; see mace_run_train --help")

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{config_file}: {message}; see mace_run_train --help")

    parser.error = refuse
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(dict(settings), file)
        file.flush()
        args = parser.parse_args(["--config", file.name, *arguments])
    args.config = str(config_file)
    return args


def _refuse_unsupported(args: Any, long_range: LongRangeConfig | None, start: str | None) -> None:
    if start is not None and args.foundation_model is not None:
        raise ConfigError(f"{START} and foundation_model both say where to begin: give one of them")
    if args.foundation_model is not None and Path(args.foundation_model).is_dir():
        raise ConfigError(
            f"foundation_model is {args.foundation_model}, a folder; allowed: a model of MACE. A checkpoint of "
            f"les-plugins goes under {START}"
        )
    for flag in ("enable_cueq", "enable_oeq", "lora"):
        if long_range is not None and getattr(args, flag, False):
            raise HostError(f"--{flag} converts MACE's own classes only; it cannot be combined with {SECTION} yet")
    if args.model not in ("MACE", "ScaleShiftMACE"):
        raise ConfigError(f"model is {args.model!r}; allowed with les-plugins: MACE, ScaleShiftMACE")


@contextmanager
def _progress(built: Built) -> Iterator[None]:
    """A bar on standard error that counts optimizer steps; MACE's own log goes on beside it."""
    console = Console(stderr=True)
    columns = Progress.get_default_columns()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=None)

        def count(*_: Any) -> None:
            progress.update(task, advance=1, total=built.steps)

        handle = register_optimizer_step_post_hook(count)
        try:
            yield
        finally:
            handle.remove()


def _last_validation(args: Any) -> dict[str, float]:
    """The last line that MACE wrote about the validation set."""
    path = Path(args.results_dir) / f"{get_tag(name=args.name, seed=args.seed)}_train.txt"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):  # the model is to be saved with or without
        return {}
    last: dict[str, Any] = next((line for line in reversed(lines) if line.get("mode") == "eval"), {})
    return {key: float(value) for key, value in last.items() if isinstance(value, int | float)}


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder."""
    return sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
