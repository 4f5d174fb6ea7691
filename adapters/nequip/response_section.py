"""`response_loss:` in a NequIP config: where it stands, what it makes of the config, and the labels that it needs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from les_plugins.adapters.nequip.data import HostFrames
from les_plugins.config import LongRangeConfig
from les_plugins.data.response_labels import NAMES, LabelledFrame, check_response_labels
from les_plugins.errors import ConfigError, DataError
from les_plugins.hosting.section_name import SECTION
from les_plugins.model.response_config import QUANTITIES, RESPONSE_SECTION, ResponseLossConfig
from les_plugins.model.response_support import check_frames, check_section

#: NequIP's field of each label; all but that of Born charges are registered by `extension.py`.
FIELDS = {
    "dipole": "total_dipole",
    "polarization": "polarization_dipole",
    "born_effective_charges": "born_effective_charges",
    "polarizability": "polarizability",
}
_MODULE = "les_plugins.adapters.nequip.response"
#: NequIP's training modules, and ours in their place.
_MODULES = {
    "nequip.train.NequIPLightningModule": f"{_MODULE}.ResponseLightningModule",
    "nequip.train.EMALightningModule": f"{_MODULE}.EMAResponseLightningModule",
    "nequip.train.ScheduleFreeLightningModule": f"{_MODULE}.ScheduleFreeResponseLightningModule",
}
#: Names that NequIP reads as they stand.
_READ = ("polarization", "born_effective_charges")
_READER = "nequip.data.datamodule.ASEDataModule"


def take_section(model: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The response section in a model section, at whatever depth, and the model section without it."""
    rest = copy.deepcopy(dict(model))
    for section in _mappings(rest):
        if RESPONSE_SECTION in section:
            return section.pop(RESPONSE_SECTION), rest
    return None, rest


def response_of(settings: Mapping[str, Any], source: str) -> ResponseLossConfig | None:
    """The section of a config.

    Args:
        settings: of the whole file.
        source: the file, for messages.

    Raises:
        ConfigError: a section that cannot be used, stands in another place than beside `long_range`, or in a training
            that NequIP compiles.
    """
    module = settings.get("training_module")
    model = module.get("model") if isinstance(module, Mapping) else None
    section, _ = take_section(model) if isinstance(model, Mapping) else (None, {})
    places = [found for found in _mappings(settings) if RESPONSE_SECTION in found]
    if len(places) > (section is not None) or any("_target_" not in found for found in places):
        raise ConfigError(
            f"{source}: {RESPONSE_SECTION} stands where it is not read; write it once, beside long_range in "
            "training_module.model"
        )
    if section is None:
        trained = [found for found in _mappings(model) if _trains_screening(found.get(SECTION))]
        if trained:
            raise ConfigError(
                f"{source}: {SECTION}.screening is trained, and there is no {RESPONSE_SECTION} beside it that trains "
                "it; allowed without: fixed"
            )
    if section is None or "${" in str(section):
        return None
    if any(found.get("compile_mode", "eager") != "eager" for found in _mappings(model)):
        raise ConfigError(f"{source}: {RESPONSE_SECTION} needs compile_mode: eager in the model section")
    response = ResponseLossConfig.parse(section, f"{source}: {RESPONSE_SECTION}")
    if (beside := section_beside(settings)) is not None:
        check_section(beside, response, source)
    return response


def section_beside(settings: Mapping[str, Any]) -> LongRangeConfig | None:
    """The `long_range` section beside that of response; None where it stands elsewhere or refers to other keys."""
    for found in _mappings(settings):
        if RESPONSE_SECTION in found and SECTION in found and "${" not in str(found[SECTION]):
            return LongRangeConfig.parse(found[SECTION])
    return None


def response_overrides(settings: Mapping[str, Any], response: ResponseLossConfig, source: str) -> list[str]:
    """Overrides of Hydra that make `nequip-train` train on response: its training module, names of labels.

    Raises:
        ConfigError: a training module that has no place for further terms.
    """
    target = str(settings["training_module"].get("_target_"))
    if target not in _MODULES and target not in _MODULES.values():
        raise ConfigError(
            f"{source}: {RESPONSE_SECTION} with training_module._target_ {target}; allowed: "
            f"{', '.join((*_MODULES, *_MODULES.values()))}"
        )
    found = [f"training_module._target_={_MODULES.get(target, target)}"]
    data = settings.get("data") or {}
    if data.get("_target_") == _READER:
        mapped = data.get("key_mapping") or {}
        found += [
            f"++data.key_mapping.{name}={FIELDS[quantity]}"
            for quantity in response.quantities
            for name in NAMES[quantity]
            if name not in mapped and name not in _READ
        ]
    return found


def check_labels(
    sets: Mapping[str, Sequence[HostFrames]], response: ResponseLossConfig, section: LongRangeConfig | None
) -> None:
    """Look for the labels of every weight in the frames of the sets, as `check_response_labels` says.

    Args:
        sets: frames of each kind ("train", "val").
        response: the section.
        section: of the model; None where it is not known.

    Raises:
        DataError: no frame of the training set has a label that counts, a frame has it under two names, or the model
            has no such response of it.
    """
    for kind, some in sets.items():
        used = [atoms for frames in some for atoms in frames if len(atoms)]
        for frames in some:
            for number, names in enumerate(frames.names):
                _refuse_two_names(names, f"{frames.path}, frame {number}", response)
        labelled = [item for frames in some for item in _labelled(frames)]
        if section is not None:
            check_frames(section, response, labelled)
        mentions = {name: sum(any(key in atoms.info for key in NAMES[name]) for atoms in used) for name in QUANTITIES}
        where = ", ".join(str(frames.path) for frames in some)
        check_response_labels(labelled, mentions, response.quantities, response.named, where, kind == "train")


def _labelled(frames: HostFrames) -> Iterator[LabelledFrame]:
    """Place, pbc and labels of each frame of a set."""
    for number in sorted(frames.used):
        atoms = frames[number]
        yield f"{frames.path}, frame {number}", atoms.pbc, [name for name in QUANTITIES if _has(atoms, name)]


def _refuse_two_names(names: Sequence[str], where: str, response: ResponseLossConfig) -> None:
    """NequIP would take one of them in silence."""
    for quantity in response.quantities:
        given = [name for name in NAMES[quantity] if name in names]
        if len(given) > 1:
            both = " and ".join(map(repr, given))
            raise DataError(f"{where}: has its {quantity} under {both}; allowed: one of {', '.join(NAMES[quantity])}")


def _has(atoms: Atoms, name: str) -> bool:
    fields = (FIELDS[name], "polarization") if name == "polarization" else (FIELDS[name],)
    values = [atoms.info[field] for field in fields if atoms.info.get(field) is not None]
    return any(bool(np.isfinite(np.asarray(value, dtype=float)).any()) for value in values)


def _trains_screening(section: Any) -> bool:
    return isinstance(section, Mapping) and section.get("screening") == "trained"


def _mappings(value: Any) -> Iterator[Any]:
    """A mapping and all mappings in it."""
    if isinstance(value, Mapping):
        yield value
        for item in value.values():
            yield from _mappings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _mappings(item)
