"""Teachers: what the user types, opened as an ASE calculator, with what every frame is to say about it."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from les_plugins import api
from les_plugins.committee import Member
from les_plugins.data.evaluation import known_elements
from les_plugins.data.teachers import NOT_STATED
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError, did_you_mean, in_one_line, quoted
from les_plugins.hosting import registry
from les_plugins.storage import checkpoint, zoo

#: Properties that a teacher must have; stress is a label where it has that too.
NEEDED = ("energy", "forces")


@dataclass(frozen=True)
class Teacher:
    """A calculator that labels frames.

    Attributes:
        name: as typed.
        calculator: ASE calculator.
        version: package that computes, with its version, such as "sevenn 0.13.0".
        sha256: of the file of the weights; None where there is no such file.
        licence: of the weights.
        elements: atomic numbers that it knows, or None where it does not say.
    """

    name: str
    calculator: Any
    version: str
    sha256: str | None
    licence: str
    elements: tuple[int, ...] | None = None

    def provenance(self) -> dict[str, str]:
        """What every frame carries in `atoms.info`; `data.teachers` reads it back."""
        found = {"teacher": self.name, "teacher_version": self.version, "teacher_licence": self.licence}
        return found if self.sha256 is None else {**found, "teacher_sha256": self.sha256}

    def identity(self) -> dict[str, str]:
        """What tells it from other models: its provenance without the licence, which a user may state later."""
        return {key: value for key, value in self.provenance().items() if key != "teacher_licence"}

    @property
    def has_stress(self) -> bool:
        """Whether it labels stress."""
        return "stress" in self.calculator.implemented_properties


def open_teacher(
    name: str, device: str = "cpu", modality: str | None = None, licence: str | None = None, role: str = "TEACHER"
) -> Teacher:
    """Open what the user typed.

    Args:
        name: a model of the zoo or a `.les` folder; HOST:MODEL, a model of a host's own, by its name or file;
            MODULE:FUNCTION, a function without arguments that returns an ASE calculator. It must come from the user's
            command line, never from a file: the last two can run any code.
        device: torch device, of the first two.
        modality: level of theory, of a host's model that has several.
        licence: of the weights, in the place of what their package states.
        role: name of the argument, for messages.

    Raises:
        ConfigError: a name that is none of these, a modality where there is none to choose.
        CheckpointError, HostError, DeviceError: the model cannot be opened.
    """
    check_device(device)
    if licence is not None and len((licence := licence.strip()).splitlines()) != 1:
        raise ConfigError(f"--licence is {quoted(licence)}; allowed: one line, which every frame carries")
    before, colon, after = name.partition(":")
    if colon and before in _hosts():
        return _of_host(name, before, after, device, modality, licence)
    if modality is not None:
        raise ConfigError(f"--modality is {modality!r}, but {role} {name} is no model of a host; expected HOST:MODEL")
    if colon and not Path(name).exists():
        return _of_function(name, before, after, licence, role)
    return _of_checkpoint(name, device, licence)


def _of_host(name: str, host: str, model: str, device: str, modality: str | None, licence: str | None) -> Teacher:
    found = registry.host(host).pretrained(model, device, modality)
    info = registry.host(host).info()
    title = f"{host}:{Path(model).name}" + (f" ({modality})" if modality else "")
    stated = licence or found.licence or NOT_STATED
    return _checked(
        Teacher(
            title, found.calculator, f"{info.distribution} {info.version}", checkpoint.sha256(found.weights), stated
        )
    )


def _of_checkpoint(name: str, device: str, licence: str | None) -> Teacher:
    member = Member.of(name)
    calculator = api.load_member(member, device, None)
    config = checkpoint.read_config(member.folder)
    versions = [*config["versions"].items(), ("les_plugins", config["les_plugins"])]
    return _checked(
        Teacher(
            Path(name).name,
            calculator,
            ", ".join(f"{package} {version}" for package, version in versions),
            member.weights_sha256,
            licence or licence_of(config["metadata"]),
        )
    )


def licence_of(metadata: Mapping[str, Any]) -> str:
    """Licence of the data that a checkpoint of ours was trained on."""
    return str(metadata.get("data_licence") or NOT_STATED)


def _of_function(name: str, module: str, function: str, licence: str | None, role: str) -> Teacher:
    known = [*(f"{host}:" for host in _hosts()), *zoo.names()]
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        here = Path(f"{module.partition('.')[0]}.py").is_file() and isinstance(error, ModuleNotFoundError)
        hint = "; PYTHONPATH=. before the command finds a module of this folder" if here else ""
        raise ConfigError(
            f"{role} is {name!r}{did_you_mean(f'{module}:', known)}: {in_one_line(error)}{hint}; allowed: a name of "
            f"the zoo, a .les folder, HOST:MODEL with {', '.join(_hosts())}, or MODULE:FUNCTION that returns an ASE "
            "calculator"
        ) from None
    try:
        calculator = found()
    except Exception as error:  # code of the user's own raises what it likes
        raise HostError(f"{role} {name}: the function stopped with {in_one_line(error)}") from error
    package = module.partition(".")[0]
    try:
        version = f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        version = f"{package} (no version)"
    return _checked(Teacher(name, calculator, version, None, licence or NOT_STATED))


def _checked(teacher: Teacher) -> Teacher:
    offered = getattr(teacher.calculator, "implemented_properties", None)
    if offered is None or not callable(getattr(teacher.calculator, "calculate", None)):
        raise HostError(f"{teacher.name}: gives a {type(teacher.calculator).__name__}; expected an ASE calculator")
    if missing := [name for name in NEEDED if name not in offered]:
        raise HostError(
            f"{teacher.name}: its calculator has no {' and no '.join(missing)}; it has {', '.join(offered)}"
        )
    elements = known_elements(teacher.calculator)
    known = None if elements is None else tuple(sorted(elements))
    return Teacher(teacher.name, teacher.calculator, teacher.version, teacher.sha256, teacher.licence, known)


def _hosts() -> list[str]:
    return [info.name for info in registry.hosts()]
