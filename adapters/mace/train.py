"""`les-plugins train mace`: MACE's own trainer, unchanged but for the model that it is given (seam.py)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import yaml
from ase import Atoms
from mace.tools import build_default_arg_parser, get_tag
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from les_plugins.adapters.mace.accelerated import plain, wanted
from les_plugins.adapters.mace.data import Found, read_data, reading
from les_plugins.adapters.mace.foundation import check_foundation, licence_of_foundation
from les_plugins.adapters.mace.heads import literal, replays
from les_plugins.adapters.mace.processes import check_launcher, several_processes
from les_plugins.adapters.mace.response import check_labels, response_seam
from les_plugins.adapters.mace.seam import Built, model_seam, run
from les_plugins.adapters.mace.start import START
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError, did_you_mean
from les_plugins.hosting.section_name import SECTION, is_near_miss
from les_plugins.model.response_config import RESPONSE_SECTION, ResponseLossConfig
from les_plugins.model.response_support import check_section
from les_plugins.storage.licences import licence_of_checkpoint
from les_plugins.training import TrainingRun


class MACETraining(TrainingRun):
    """`mace_run_train --config FILE ARGUMENTS`, with its model configured by ours (seam.py).

    With `start_from:` training begins with the weights of a checkpoint of ours.
    """

    host = "mace"
    program = "MACE"
    freezes = True
    data: Found

    def names(self) -> Collection[str]:
        """Heads, which the user names."""
        heads = self.settings.get("heads")
        return tuple(heads) if isinstance(heads, dict) else ()

    def split(self) -> None:
        """Take `start_from` out too, and read the rest as MACE's options."""
        super().split()
        self.start = self.settings.pop(START, None)
        if not isinstance(self.start, str | None):
            raise ConfigError(
                f"{self.config_file}: {START} is {self.start!r}; expected a .les folder or a name of the zoo"
            )
        self.response = self._response_section()
        self.args = parse_arguments(self.settings, self.arguments, self.config_file)
        self._refuse_unsupported()
        check_launcher(self.args)
        check_device(self.args.device)

    def target(self) -> Path:
        """`<model_dir>/<name>.les`."""
        return Path(self.args.model_dir or self.args.work_dir) / f"{self.args.name}.les"

    def read_frames(self) -> Sequence[Atoms]:
        """Of every head, with the keys that MACE reads."""
        self.data = read_data(self.args, self.config_file, self.reads_total_charge())
        if self.data.charge_keys:
            self.facts["total_charge_key"] = self.data.charge_keys
        check_foundation(self.args, self.settings, self.data, self.config_file)
        if self.response is not None and self.long_range is not None:
            check_labels(self.data, self.response, self.long_range)
        return self.data.training_set()

    def reads_total_charge(self) -> bool:
        """MACE's own embedding of total charges reads them too."""
        own = literal(self.args.embedding_specs or {}, dict, f"{self.config_file}: embedding_specs")
        return super().reads_total_charge() or "total_charge" in own

    def begins_with(self) -> Mapping[str, str | None]:
        """`start_from`, or a foundation model."""
        if self.start is not None:
            return {Path(self.start).name: licence_of_checkpoint(self.start)}
        name = self.args.foundation_model
        return {} if name is None else {Path(name).name: licence_of_foundation(name)}

    def files(self) -> tuple[Iterable[Path], Iterable[Path]]:
        """Files, and those of folders that MACE has prepared."""
        training, validation = super().files()
        return [file for path in training for file in _files(path)], validation

    def fit(self) -> nn.Module | None:
        """MACE's `run`; None after a dry run."""
        with ExitStack() as stack:
            stack.enter_context(several_processes(self.args))
            if self.response is not None:
                stack.enter_context(response_seam(self.response))
            built = stack.enter_context(model_seam(self.long_range, self.start, self._kernels()))
            stack.enter_context(reading(self.data))
            stack.enter_context(_progress(built))
            self.stopped = run(self.args, built)
        if self.args.dry_run or built.model is None or not built.first:
            return None
        if self.data.unread:
            self.frames = built.frames()
        self.facts["last_validation"] = _last_validation(self.args)
        if self.start is not None:
            self.facts["start_from"] = Path(self.start).name
        return plain(built.model)  # a copy of one on OpenEquivariance cannot be evaluated, and saving makes some

    def options(self) -> Mapping[str, Any]:
        """MACE's options without those of Weights & Biases, which are keys of one person."""
        options = {**vars(self.args), **self.data.keys}
        return {
            key: value for key, value in options.items() if not (key.startswith("wandb") or isinstance(value, Mapping))
        }

    def kept(self) -> Iterable[Path]:
        """MACE's own models."""
        return self.target().parent.glob(f"{self.args.name}*.model")

    def _response_section(self) -> ResponseLossConfig | None:
        """The section, taken out of the settings."""
        if RESPONSE_SECTION not in self.settings:
            return None
        where = f"{self.config_file}: {RESPONSE_SECTION}"
        if self.long_range is None:
            raise ConfigError(f"{where}: the model has no {SECTION} section beside it, which is to learn")
        response = ResponseLossConfig.parse(self.settings.pop(RESPONSE_SECTION), where)
        check_section(self.long_range, response, str(self.config_file))
        return response

    def _kernels(self) -> tuple[str, ...]:
        """Options that convert a MACE beside a long-range part; with both MACE trains on cuEquivariance."""
        args = self.args
        if self.long_range is None:
            return ()
        if args.only_cueq:  # MACE makes its model so
            wanted({"enable_cueq": True})
            return ()
        return wanted({"enable_cueq": args.enable_cueq, "enable_oeq": args.enable_oeq and not args.enable_cueq})

    def _refuse_unsupported(self) -> None:
        foundation = self.args.foundation_model
        if self.start is not None and foundation is not None:
            raise ConfigError(f"{START} and foundation_model both say where to begin: give one of them")
        if foundation is not None and Path(foundation).is_dir():
            raise ConfigError(
                f"foundation_model is {foundation}, a folder; allowed: a model of MACE. A checkpoint of les-plugins "
                f"goes under {START}"
            )
        if self.long_range is not None and self.args.lora:
            raise HostError(f"--lora converts MACE's own classes only; it cannot be combined with {SECTION} yet")
        if self.start is not None and self.args.only_cueq:
            raise ConfigError(f"only_cueq: {START} begins with a model in e3nn's form; allowed: enable_cueq")
        self._kernels()
        if self.response is not None and replays(self.args):
            raise ConfigError(f"{RESPONSE_SECTION}: a fine-tuning with replayed data has no response labels of them")
        if self.args.model not in ("MACE", "ScaleShiftMACE"):
            raise ConfigError(f"model is {self.args.model!r}; allowed with les-plugins: MACE, ScaleShiftMACE")


train = MACETraining.train


def parse_arguments(settings: Mapping[str, Any], arguments: Sequence[str], config_file: Path) -> Any:
    """MACE's argument namespace of its settings and further command-line options, which override them."""
    parser = build_default_arg_parser()
    known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    for key in settings:
        if str(key) not in known:
            raise ConfigError(
                f"{config_file}: unknown key {key!r}{did_you_mean(key, known | {SECTION, START})}; allowed: MACE's own "
                f"options (mace_run_train --help), {SECTION}, {RESPONSE_SECTION} and {START}"
            )
    for item in arguments:
        name = item.removeprefix("--").split("=")[0]
        if not item.startswith("--") or name in known:
            continue
        if name in (SECTION, START) or is_near_miss(name):
            raise ConfigError(f"unknown option {item!r}: {SECTION} and {START} stand in the config file")
        raise ConfigError(f"unknown option {item!r}{did_you_mean(name, known)}; see mace_run_train --help")

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{config_file}: {message}; see mace_run_train --help")

    parser.error = refuse
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(dict(settings), file)
        file.flush()
        args = parser.parse_args(["--config", file.name, *arguments])
    args.config = str(config_file)
    return args


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
    """The last line that MACE wrote about the validation set, without errors of labels that it has not."""
    path = Path(args.results_dir) / f"{get_tag(name=args.name, seed=args.seed)}_train.txt"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):  # the model is to be saved with or without
        return {}
    last: dict[str, Any] = next((line for line in reversed(lines) if line.get("mode") == "eval"), {})
    return {key: float(value) for key, value in last.items() if isinstance(value, int | float) and isfinite(value)}


def _files(path: Path) -> list[Path]:
    """A file, or the files of a folder."""
    return sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
