"""`les-plugins train sevennet`: SevenNet's own trainer, unchanged but for the layers of the model and its graphs.

SevenNet names no plugin point, so its `run` is called with the names of seam.py substituted for that call.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sevenn._keys as keys
import yaml
from ase import Atoms
from sevenn import parse_input
from sevenn._const import TRAINING_CONFIG_CONDITION
from sevenn.logger import Logger
from sevenn.main import sevenn as command
from sevenn.nn.sequential import AtomGraphSequential
from sevenn.util import unique_filepath
from torch import nn

from les_plugins.adapters.sevennet.data import energy_of, forget_graphs, literal_paths, read_data
from les_plugins.adapters.sevennet.model import refuse_accelerators
from les_plugins.adapters.sevennet.pretrained import licence_of
from les_plugins.adapters.sevennet.seam import open_checkpoint, training
from les_plugins.adapters.sevennet.start import START, Start
from les_plugins.config import LongRangeConfig
from les_plugins.devices import check_device
from les_plugins.errors import CheckpointError, ConfigError, HostError, raising
from les_plugins.hosting.section_name import SECTION
from les_plugins.storage.licences import licence_of_checkpoint
from les_plugins.storage.training import OptionParser, check_cutoff, check_keys, check_section
from les_plugins.training import TrainingRun

#: Sections of SevenNet's own file.
SECTIONS = ("model", "train", "data")


class SevenNetTraining(TrainingRun):
    """`sevenn train FILE ARGUMENTS`, with names of its script substituted (seam.py).

    With `start_from:` training begins with a model, whose architecture need not be written out (start.py).
    """

    host = "sevennet"
    program = "sevenn train"
    freezes = True
    keys = (*SECTIONS, START)

    def split(self) -> None:
        """Take `start_from` out too, and check the three sections of SevenNet."""
        super().split()
        self.start: Start | None = None
        if START in self.settings:
            self.start = Start.parse(self.settings.pop(START), f"{self.config_file}: {START}")
            self.settings["model"] = self.settings.get("model") or {}
        for key in SECTIONS:
            if not isinstance(self.settings.get(key), dict):
                raise ConfigError(
                    f"{self.config_file}: {key} is missing or not a section; SevenNet needs model, train and data"
                )
        _check_values(self.settings, self.config_file)

    def target(self) -> Path:
        """`<working directory>/<name of the file>.les`."""
        self.host_file = self.temporary / self.config_file.name
        parser = OptionParser("sevenn train")
        command.cmd_parser_train(parser)
        self.args = parser.parse_args([str(self.host_file), *self.arguments])
        self.working = Path(self.args.working_dir or ".")
        return self.working / f"{self.config_file.stem}.les"

    def read_frames(self) -> Sequence[Atoms]:
        """Every file that SevenNet will read, with the settings that it makes of the user's."""
        settings = {**self.settings, "data": literal_paths(self.settings["data"], str(self.config_file))}
        if self.start is not None:
            settings = self.start.open(settings, self.long_range, self.temporary / "start.pth", str(self.config_file))
        self.host_file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        parsed = parse_settings(self.host_file, self.config_file)
        check_device(parsed["train"][keys.DEVICE])
        if self.long_range is not None:
            _check_supported(self.args, parsed["model"])
        _check_continue(parsed["train"], self.long_range, self.config_file)
        asks_for_stress = keys.IS_TRAIN_STRESS in self.settings["train"]
        self.data = read_data(parsed, asks_for_stress, self.long_range is not None, str(self.config_file))
        forget_graphs(parsed["data"], self.working)
        frames = self.data.training_set()
        if self.start is not None:
            energies = [energy_of(atoms, parsed["data"][keys.DATA_FORMAT_ARGS]) for atoms in frames]
            self.facts.update(self.start.set_zero_of_energy(frames, energies))
        return frames

    def begins_with(self) -> Mapping[str, str | None]:
        """`start_from`, or a model of SevenNet's wheel in `continue`; what else that names is a run of one's own."""
        if self.start is not None:
            given = self.start.checkpoint
            return {Path(given).name: licence_of(given) or licence_of_checkpoint(given)}
        given = str((self.settings["train"].get(keys.CONTINUE) or {}).get(keys.CHECKPOINT))
        licence = licence_of(given)
        return {} if licence is None else {given: licence}

    def fit(self) -> nn.Module | None:
        """The best model of the run where SevenNet kept one, else the last; None in all but the first process."""
        start = time.time()
        model, weights = _run(self.args, self.long_range), "last epoch"
        rank = "OMPI_COMM_WORLD_RANK" if self.args.distributed_backend == "mpi" else "RANK"  # as SevenNet finds it
        if self.args.distributed and int(os.environ[rank]):
            return None
        best = self.working / "checkpoint_best.pth"
        if best.is_file() and best.stat().st_mtime >= start:
            model, weights = load_checkpoint(best), best.name
        self.facts.update(weights=weights, **_last_errors(self.working))
        if model.modal_map:  # of several fidelities: no calculator says which one a frame belongs to
            self.frames = ()
        return model.cpu().eval()

    def kept(self) -> Iterable[Path]:
        """SevenNet's own checkpoints."""
        return self.working.glob("checkpoint_*.pth")


train = SevenNetTraining.train


def load_checkpoint(path: str | Path) -> AtomGraphSequential:
    """The model of a checkpoint of SevenNet, with its long-range part if it has one, ready to be used and saved.

    Args:
        path: a `.pth` file, or the name of a pretrained model such as 7net-0. A file is a pickle: load only files that
            you trust.

    Raises:
        CheckpointError: the file cannot be read.
    """
    with warnings.catch_warnings(), raising(CheckpointError, f"{path}: SevenNet cannot read it"):
        # checkpoints of other versions: SevenNet says so, and builds them
        warnings.filterwarnings("ignore", "The checkpoint version")
        return open_checkpoint(path).build_model().eval()


def parse_settings(host_file: Path, config_file: Path) -> dict[str, dict[str, Any]]:
    """SevenNet's reading of the file; keys that it would ignore are errors."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with raising(ConfigError, f"{config_file}: SevenNet cannot use it"):
            parts = parse_input.read_config_yaml(str(host_file))
    for warning in said:
        if "will be ignored" in (text := str(warning.message)):
            raise ConfigError(
                f"{config_file}: {text.replace('Unexpected', 'unknown')} by SevenNet: remove or correct it"
            )
    return dict(zip(SECTIONS, parts, strict=True))


def _run(args: argparse.Namespace, section: LongRangeConfig | None) -> AtomGraphSequential:
    """The model that SevenNet's `run` trained, as its last epoch left it."""
    with training(section) as built:
        if not args.distributed:
            working = Path(args.working_dir or ".")
            working.mkdir(parents=True, exist_ok=True)
            log = Logger()  # one for the whole process: the first run's file and screen would be kept
            log.switch_file(unique_filepath(f"{working.resolve()}/{args.log}"))
            log.screen = args.screen
        try:
            command.run(args)
        except SystemExit as error:
            raise HostError(f"sevenn train ended with status {error.code}; its log {args.log} says why") from None
    if built.model is None:
        raise HostError("sevenn train built no model")
    return built.model


def _check_values(settings: Mapping[str, Any], source: Path) -> None:
    """What SevenNet stumbles over without saying where, or trains with."""
    check_cutoff(settings["model"].get(keys.CUTOFF, 1.0), f"{source}: model.{keys.CUTOFF}")
    resume, where = settings["train"].get(keys.CONTINUE) or {}, f"{source}: train.{keys.CONTINUE}"
    check_keys(check_section(resume, where), TRAINING_CONFIG_CONDITION[keys.CONTINUE], where)
    rate = (settings["train"].get(keys.OPTIM_PARAM) or {}).get("lr", 1.0)
    if not isinstance(rate, int | float):
        raise ConfigError(
            f"{source}: train.{keys.OPTIM_PARAM}.lr is {rate!r}; allowed: a number, with a point in it (YAML "
            "takes 1e-3 for text, 1.0e-3 for a number)"
        )


def _check_supported(args: argparse.Namespace, model: dict[str, Any]) -> None:
    refuse_accelerators(model)
    for option in ("enable_cueq", "enable_flash", "enable_oeq"):
        if getattr(args, option):
            raise HostError(
                f"--{option} has not been tested with a long-range part; it cannot be combined with {SECTION}"
            )
    if args.mode != "train_v2":
        raise ConfigError(f"--mode {args.mode} keeps no cell in its graphs; allowed with {SECTION}: train_v2")


def _check_continue(settings: Mapping[str, Any], section: LongRangeConfig | None, config_file: Path) -> None:
    """SevenNet loads the weights of an earlier run with strict=False: what does not fit would be dropped silently."""
    resume = settings[keys.CONTINUE]
    if not resume[keys.CHECKPOINT]:
        return
    where = f"{config_file}: train.continue.checkpoint"
    found = open_checkpoint(resume[keys.CHECKPOINT]).section
    if found is None:
        if section is not None and not (resume[keys.RESET_OPTIMIZER] and resume[keys.RESET_SCHEDULER]):
            raise ConfigError(
                f"{where} has no long-range part, {SECTION} adds one: its optimizer cannot go on; set reset_optimizer: "
                "true and reset_scheduler: true under continue"
            )
    elif section is None:
        raise ConfigError(
            f"{where} has a long-range part, which would be lost: add its {SECTION} section: {found.to_dict()}"
        )
    elif not found.same_model(section):
        raise ConfigError(f"{where} was trained with another {SECTION} section: {found.to_dict()}")


def _last_errors(working: Path) -> dict[str, Any]:
    """The last line of SevenNet's newest table of errors."""
    tables = sorted(working.glob("lc*.csv"), key=lambda path: path.stat().st_mtime)
    try:
        rows = list(csv.DictReader(tables[-1].read_text(encoding="utf-8").splitlines())) if tables else []
        return {"last_errors": {key: float(value) for key, value in rows[-1].items()}} if rows else {}
    except (OSError, ValueError, TypeError):  # the model is saved with or without
        return {}
