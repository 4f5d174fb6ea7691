"""`start_from:`, fine-tuning: a SevenNet training that begins with a model, whose architecture is then the run's.

SevenNet has a way of its own to go on from a checkpoint (`continue`), which wants the architecture written out. The
model is written to a checkpoint of SevenNet's form, and the user's settings are completed to a `continue` of it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sevenn
import sevenn._keys as keys
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
from sevenn.nn.sequential import AtomGraphSequential
from sevenn.util import get_available_pretrained_models

from les_plugins import api
from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator
from les_plugins.adapters.sevennet.model import build_model
from les_plugins.adapters.sevennet.seam import LongRangeSection, open_checkpoint
from les_plugins.config import LongRangeConfig
from les_plugins.data.zero_of_energy import fitted_change, representative
from les_plugins.errors import CheckpointError, ConfigError, DataError, LesPluginsWarning, quoted, raising
from les_plugins.hosting.section_name import SECTION
from les_plugins.model.outputs import section_of
from les_plugins.storage.fine_tuning import section_mismatch, with_weights_of
from les_plugins.storage.training import check_keys, check_section

#: The key of a config file.
START = "start_from"
#: What becomes of the energy of each element (`shift`): the model's own, or fitted to the training set.
SHIFTS = ("keep", "fit")
#: Frames of the training set that the energies are compared on, where the shift is kept.
COMPARED = 4
#: Mean difference of energies, eV an atom, above which another zero of energy is suspected.
OFFSET = 0.1
_SHIFT = "rescale_atomic_energy.shift"
#: Numbers of the data section that SevenNet takes from the checkpoint, whatever the file says.
_OF_THE_CHECKPOINT = (keys.SHIFT, keys.SCALE)
#: Of the model section, but nothing that a user would repeat.
_NOT_WRITTEN = {keys.CONV_DENOMINATOR, keys.CUEQUIVARIANCE_CONFIG, keys.USE_FLASH_TP, keys.USE_OEQ}
#: What a training may set anew.
_FREE = (keys.TRAIN_SHIFT_SCALE, keys.TRAIN_DENOMINTAOR)
#: Names and dates that SevenNet takes too.
_ALSO = tuple(f"7net-0_{date}" for date in ("11july2024", "11jul2024"))


class Start:
    """The key of a config file, and the model that it names once it is open.

    Args:
        checkpoint: name of a pretrained model of SevenNet, a `.pth` file of SevenNet, or a `.les` folder.
        shift: one of `SHIFTS`.
        where: file and key, for messages.
    """

    model: AtomGraphSequential
    file: Path

    def __init__(self, checkpoint: str, shift: str, where: str) -> None:
        self.checkpoint, self.shift, self.where = checkpoint, shift, where

    @classmethod
    def parse(cls, value: Any, where: str) -> Start:
        """Of a name alone, or of a section with `checkpoint` and `shift`; raises ConfigError that names `where`."""
        section = {"checkpoint": value} if isinstance(value, str) else check_section(value, where)
        check_keys(section, ("checkpoint", "shift"), where)
        checkpoint, shift = section.get("checkpoint"), section.get("shift", "keep")
        if not isinstance(checkpoint, str) or not checkpoint:
            raise ConfigError(f"{where} is {quoted(value)}; {_allowed()}")
        if shift not in SHIFTS:
            raise ConfigError(f"{where}.shift is {quoted(shift)}; allowed: {', '.join(SHIFTS)}")
        return cls(checkpoint, shift, where)

    def open(
        self, settings: Mapping[str, Any], section: LongRangeConfig | None, file: Path, source: str
    ) -> dict[str, Any]:
        """The settings with the model's architecture, and a `continue` of `file`, which is written.

        Args:
            settings: sections model, train and data of the user.
            section: the run's `long_range:` section; terms that the model has not start fresh.
            file: to write the model to, as a checkpoint of SevenNet.
            source: the config file, for messages.

        Raises:
            CheckpointError: the model cannot be read.
            ConfigError: no such model, or a key whose value is another than the model's; names it.
        """
        model = read_model(self.checkpoint, self.where)
        if self.shift == "fit" and model.modal_map:
            raise ConfigError(
                f"{self.where}.shift is fit, and {self.checkpoint} has several fidelities, each with energies of its "
                "own; allowed: keep"
            )
        self.model, self.file = _with_section(model, section, self.checkpoint), file
        write_checkpoint(self.model, file)
        return completed(settings, self.model, file, source)

    def set_zero_of_energy(self, frames: Sequence[Atoms], energies: Sequence[float | None]) -> dict[str, Any]:
        """Fit the shift to a training set, or compare it; facts for the checkpoint.

        Args:
            frames: the training set.
            energies: eV, None where a frame has none.

        Raises:
            DataError: the shift is to be fitted, and no frame has an energy.

        Warns:
            LesPluginsWarning: the shift is kept, and the energies have another zero; it is fitted, and no frame with an
                energy has one of the elements.
        """
        facts: dict[str, Any] = {START: Path(self.checkpoint).name, "shift": self.shift}
        labelled = [(atoms, energy) for atoms, energy in zip(frames, energies, strict=True) if energy is not None]
        if not labelled and self.shift == "fit":
            raise DataError(f"{self.where}.shift is fit, and no frame of the training set has an energy")
        if not labelled or self.model.modal_map:  # of several fidelities: the frames do not say whose energies
            return facts
        calculator = LesSevenNetCalculator(self.model)
        predicted = partial(calculator.get_property, "energy")
        if self.shift == "fit":
            chosen, labels = zip(*labelled, strict=True)
            facts["shift_change"] = fitted_change(chosen, labels, predicted)
            left = {symbol for atoms in frames for symbol in atoms.symbols} - set(facts["shift_change"])
            if left:
                warnings.warn(
                    f"{self.where}.shift is fit, and no frame with an energy has {', '.join(sorted(left))}, whose "
                    f"energies stay those of {self.checkpoint}",
                    LesPluginsWarning,
                    2,
                )
            add_to_shift(self.model, facts["shift_change"])
            write_checkpoint(self.model, self.file)
            return facts
        few = [labelled[index] for index in representative([atoms for atoms, _ in labelled], COMPARED)]
        offset = float(np.mean([(energy - predicted(atoms)) / len(atoms) for atoms, energy in few]))
        if abs(offset) > OFFSET:
            warnings.warn(
                f"{self.where}: the energies of the training set are {offset:+.2f} eV an atom from those of "
                f"{self.checkpoint}, as of another zero of energy, which the weights would have to learn; {START}: "
                f"{{checkpoint: {self.checkpoint}, shift: fit}} fits the energies of the elements",
                LesPluginsWarning,
                2,
            )
        return facts


def read_model(checkpoint: str, where: str) -> AtomGraphSequential:
    """The model of a name, a `.pth` file or a `.les` folder, in float32, with its config noted on it.

    A `.pth` file is a pickle, which can run any code, as SevenNet itself reads it: give only files that you trust.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: no such model, or one of another host; names `where`.
    """
    if not Path(checkpoint).is_dir():
        if not Path(checkpoint).is_file() and not _is_pretrained(checkpoint):
            raise ConfigError(f"{where} is {quoted(checkpoint)}, which is not there; {_allowed()}")
        with raising(CheckpointError, f"{where}: SevenNet cannot read {quoted(checkpoint)}"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The checkpoint version")
            return open_checkpoint(checkpoint).build_model().float()
    model, config = api.load_model(checkpoint)
    if config["host"] != "sevennet":
        raise ConfigError(f"{where} is a model of {config['host']}; allowed: models of SevenNet")
    assert isinstance(model, AtomGraphSequential)
    return model.float()


def completed(settings: Mapping[str, Any], model: AtomGraphSequential, file: Path, source: str) -> dict[str, Any]:
    """A user's settings with the architecture of a model, and a `continue` of the checkpoint that holds it.

    Raises:
        ConfigError: a key whose value is another than that of the model; names it.
    """
    own, train = check_section(settings["model"], f"{source}: model"), dict(settings["train"])
    if keys.CONTINUE in train:
        raise ConfigError(f"{source}: {START} and train.{keys.CONTINUE} both say where to begin: give one of them")
    for key in _OF_THE_CHECKPOINT:
        if key in settings["data"]:
            raise ConfigError(
                f"{source}: data.{key} is {quoted(settings['data'][key])}; with {START} it is that of the model: leave "
                f"it out. {START}: {{checkpoint: NAME, shift: fit}} fits the energies of the elements"
            )
    architecture = _architecture(model)
    for key, value in own.items():  # SevenNet's parser says what it does not know
        if key in architecture and key not in _FREE and not _agree(key, value, architecture[key]):
            shown = f"{len(architecture[key])} elements" if key == keys.CHEMICAL_SPECIES else quoted(architecture[key])
            raise ConfigError(
                f"{source}: model.{key} is {quoted(value)}; the model of {START} has {shown}: leave the key out"
            )
    if keys.CONV_DENOMINATOR in own:
        raise ConfigError(f"{source}: model.{keys.CONV_DENOMINATOR} is that of the model of {START}: leave the key out")
    reset = dict.fromkeys((keys.RESET_OPTIMIZER, keys.RESET_SCHEDULER, keys.RESET_EPOCH), True)
    train[keys.CONTINUE] = {keys.CHECKPOINT: str(file), **reset}
    if model.modal_map:
        train[keys.USE_MODALITY] = True
    free = {key: own[key] for key in _FREE if key in own}
    return {**settings, "model": {**own, **architecture, **free}, "train": train}


def write_checkpoint(model: AtomGraphSequential, file: Path) -> None:
    """A checkpoint of SevenNet's own form, for `continue`."""
    config, section = copy.deepcopy(_config(model)), section_of(model)
    symbols = _symbols(model)
    config[keys.CHEMICAL_SPECIES] = symbols
    config[keys.CHEMICAL_SPECIES_BY_ATOMIC_NUMBER] = [atomic_numbers[symbol] for symbol in symbols]
    config["version"] = sevenn.__version__
    if section is not None:
        config[SECTION] = LongRangeSection(section.to_dict())
    torch.save({"config": config, "model_state_dict": model.state_dict(), "epoch": 0}, file)


def add_to_shift(model: AtomGraphSequential, change: Mapping[str, float]) -> None:
    """Add to the energies of elements, eV, in place; of a model of one fidelity."""
    shift = model.state_dict()[_SHIFT]  # shares its memory with the model's
    for element, value in change.items():
        shift[model.type_map[atomic_numbers[element]]] += value


def _with_section(model: AtomGraphSequential, section: LongRangeConfig | None, checkpoint: str) -> AtomGraphSequential:
    before = section_of(model)
    if before is None or before == section:
        return model  # SevenNet's training script puts a fresh part behind a bare model (seam.py)
    if section is None:
        raise ConfigError(section_mismatch(START, checkpoint, before.to_dict()))
    changed = build_model({**_config(model), SECTION: section.to_dict()})
    with_weights_of(model, changed, START, checkpoint)
    return changed


def _config(model: AtomGraphSequential) -> dict[str, Any]:
    config = model.host_config
    assert isinstance(config, dict)
    return config


def _architecture(model: AtomGraphSequential) -> dict[str, Any]:
    """What a user would have to write under `model`."""
    config = _config(model)
    known = {key: config.get(key) for key in DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG if key not in _NOT_WRITTEN}
    known = {key: value for key, value in known.items() if value is not None}
    return {**known, keys.CHEMICAL_SPECIES: _symbols(model)}


def _symbols(model: AtomGraphSequential) -> list[str]:
    types = {int(number): int(index) for number, index in _config(model)[keys.TYPE_MAP].items()}
    return [chemical_symbols[number] for number in sorted(types, key=types.__getitem__)]


def _agree(key: str, given: Any, own: Any) -> bool:
    """Whether what a user wrote says the same as the model."""
    if key == keys.CHEMICAL_SPECIES:
        names = given.replace("-", " ").replace(",", " ").split() if isinstance(given, str) else given
        return str(given).lower() == "auto" or (isinstance(names, list) and set(map(str, names)) == set(own))
    if isinstance(given, Mapping) and isinstance(own, Mapping):
        return all(name in own and own[name] == value for name, value in given.items())
    return bool(given == own)


def _is_pretrained(name: str) -> bool:
    return name.lower().replace("sevennet", "7net", 1) in (*get_available_pretrained_models(), *_ALSO)


def _allowed() -> str:
    return (
        f"allowed: a pretrained model of SevenNet ({', '.join(get_available_pretrained_models())}), a .pth file of "
        "SevenNet, or a .les folder"
    )
