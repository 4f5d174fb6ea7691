"""`les-plugins train mace`: MACE's own trainer, unchanged but for the model that it is given (seam.py)."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from mace.tools import build_default_arg_parser, get_tag
from rich.console import Console
from rich.progress import Progress
from torch.optim.optimizer import register_optimizer_step_post_hook

from les_plugins import api
from les_plugins.adapters.mace.data import read_data, reading
from les_plugins.adapters.mace.seam import Built, model_seam, run
from les_plugins.config import LongRangeConfig
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting.build import parse_section
from les_plugins.hosting.section_name import SECTION, is_near_miss, refuse_near_misses
from les_plugins.io.documents import read_yaml
from les_plugins.storage import checkpoint

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
    settings, section, start = split_config(config_file)
    long_range = None if section is None else parse_section(section, f"{config_file}: {SECTION}")
    args = parse_arguments(settings, arguments, config_file)
    _refuse_unsupported(args, long_range, start)
    check_device(args.device)
    folder = Path(args.model_dir or args.work_dir) / f"{args.name}.les"
    checkpoint.check_target(folder)
    found = read_data(args, long_range, config_file)
    data = {
        "training_data": [file for path in [*found.train, *found.binary] for file in _files(path)],
        "validation_data": [file for path in found.valid for file in _files(path)],
    }

    with model_seam(long_range, start) as built, reading(found), _progress(built):
        stopped = run(args, built, config_file)
    if args.dry_run or built.model is None or not built.first:
        return None
    facts = {
        **data,
        "training": {
            "host_options": _plain({**vars(args), **found.keys}),
            "last_validation": _last_validation(args),
            **({} if start is None else {"start_from": Path(start).name}),
        },
        **(metadata or {}),
    }
    structures = [atoms for some in found.train.values() for atoms in some]
    api.save(built.model, folder, "mace", facts, built.frames() if found.binary else structures)
    if stopped is not None:
        raise HostError(f"{stopped}; the training had come to its end, and its model is in {folder}") from stopped
    return folder


def split_config(config_file: Path) -> tuple[dict[str, Any], Any, str | None]:
    """MACE's own settings, the `long_range:` section and `start_from:` (None when absent) of a YAML file."""
    settings = read_yaml(config_file)
    heads = settings.get("heads")
    refuse_near_misses(settings, str(config_file), host_keys=tuple(heads) if isinstance(heads, dict) else ())
    start = settings.pop(START, None)
    if start is not None and not isinstance(start, str):
        raise ConfigError(f"{config_file}: {START} is {start!r}; expected a .les folder or a name of the zoo")
    if SECTION not in settings:
        return settings, None, start
    section = settings.pop(SECTION)
    return settings, {} if section is None else section, start


def parse_arguments(settings: Mapping[str, Any], arguments: Sequence[str], config_file: Path) -> Any:
    """MACE's argument namespace of its settings and further command-line options."""
    parser = build_default_arg_parser()
    known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    known_here = known | {SECTION, START}
    unknown = [key for key in settings if str(key) not in known]
    if unknown:
        raise ConfigError(
            f"{config_file}: unknown key {unknown[0]!r}{_nearest(unknown[0], known_here)}; allowed: MACE's own options "
            f"(mace_run_train --help), {SECTION} and {START}"
        )
    stray = [item for item in arguments if item.startswith("--") and item[2:].split("=")[0] not in known]
    if stray:
        name = stray[0][2:].split("=")[0]
        if name in (SECTION, START) or is_near_miss(name):
            raise ConfigError(f"unknown option {stray[0]!r}: {SECTION} and {START} stand in the config file")
        raise ConfigError(f"unknown option {stray[0]!r}{_nearest(name, known)}; see mace_run_train --help")

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


def _files(path: Path) -> list[dict[str, str]]:
    """Names and SHA-256 of a file, or of the files of a folder."""
    files = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
    return [{"file": file.name, "sha256": checkpoint.sha256(file)} for file in files]


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say how a model was trained, in JSON types; paths and keys of one machine are left out."""
    kept = {}
    for key, value in options.items():
        if isinstance(value, bool | int | float) or (
            isinstance(value, str) and "/" not in value and not key.startswith("wandb")
        ):
            kept[key] = value
    return kept


def _nearest(name: Any, known: set[str]) -> str:
    close = difflib.get_close_matches(str(name), sorted(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
