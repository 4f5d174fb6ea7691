"""Options of MACE's heads as its reader takes them: files, names of labels, terms of the loss. For data.py.

Labels under ASE's own names (`energy`, `forces`, `stress`) are taken out of a frame by ASE's reader. MACE asks ASE for
them again, and gets zeros on fixed atoms, takes zeros where one is missing, and misses the energies of isolated atoms.
`reading` (data.py) puts such a label back into the frame under a `readable_name`, and MACE is told that name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ase.calculators.calculator import all_properties
from mace.tools.default_keys import DefaultKeys
from mace.tools.multihead_tools import HeadConfig

from les_plugins.data.training import TrainedLabel
from les_plugins.errors import ConfigError
from les_plugins.hosting.section_name import SECTION, is_near_miss
from les_plugins.storage.training import check_keys, check_section

#: Labels that MACE and ScaleShiftMACE can be trained on, and where MACE looks for them.
PLACES = {"energy": "info", "forces": "arrays", "stress": "info", "virials": "info"}
#: Terms of MACE's loss functions; terms that leave out frames without the label (the others take it for zero).
_TERMS = {
    **dict.fromkeys(("weighted", "ef", "l1l2energyforces"), ("energy", "forces")),
    **dict.fromkeys(("stress", "huber", "universal"), ("energy", "forces", "stress")),
    "forces_only": ("forces",),
    "virials": ("energy", "forces", "virials"),
}
_UNWEIGHTED = {("huber", "energy"), ("huber", "forces"), ("huber", "stress"), ("l1l2energyforces", "forces")}
#: Data to replay that MACE fetches itself.
_FETCHED = ("mp", "omat", "matpes_pbe", "matpes_r2scan")
_NAMES = ("info_keys", "arrays_keys")
#: What MACE makes of a head itself.
_MADE = ("head_name", "key_specification", "collections", "train_loader", "z_table", "atomic_energies_dict")
#: What MACE reads of a head; it passes over everything else in silence.
_READ = (*(item.name for item in fields(HeadConfig) if item.name not in _MADE), *_NAMES, *DefaultKeys.keydict())


@dataclass
class Head:
    """A head: its own options where it has them, otherwise those of the run.

    Attributes:
        args: MACE's argument namespace.
        own: the section of the head; empty without heads.
        name: of the head.
        where: the beginning of messages, to which the name of an option is added.
    """

    args: Any
    own: dict[str, Any] = field(default_factory=dict)
    name: str = "Default"
    where: str = ""

    def option(self, name: str) -> Any:
        """The value of an option."""
        return self.own.get(name, getattr(self.args, name))

    def files(self, kind: str) -> list[Path]:
        """Files of the "train", "valid" or "test" set."""
        given = self.option(f"{kind}_file") or []
        if isinstance(given, str) and given.startswith("["):  # a list in MACE's config file arrives as its text
            given = ast.literal_eval(given)
        listed = [given] if isinstance(given, str) else given
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ConfigError(f"{self.where}{kind}_file is {given!r}; expected the name of a file, or a list of them")
        return [Path(item) for item in listed]

    def key(self, quantity: str) -> str:
        """Name of a label, or of the total charge, in the files: MACE's order of precedence."""
        names = self.own.get(f"{PLACES.get(quantity, 'info')}_keys", {})
        return str(names.get(quantity, self.option(f"{quantity}_key")))

    def energy(self) -> TrainedLabel:
        """The label of energies, wherever it stands."""
        return TrainedLabel("energy", self.key("energy"), "energy_key")

    def trained_labels(self) -> list[TrainedLabel]:
        """What the run's loss, or that of its second stage, has a term of weight above zero for."""
        if (loss := self._loss()) not in _TERMS:
            raise ConfigError(f"loss is {loss!r}; allowed with MACE and ScaleShiftMACE: {', '.join(_TERMS)}")
        found = []
        for quantity in _TERMS[loss]:
            key, option = self.key(quantity), f"{quantity}_weight"
            stages = [option, *([f"swa_{option}"] if self.args.swa else [])]
            if loss == "ef" or any(getattr(self.args, stage) for stage in stages):
                places = ("calc", "info", "arrays") if key in all_properties else (PLACES[quantity],)
                left_out = not self.is_unweighted(quantity)
                found.append(TrainedLabel(quantity, key, f"{quantity}_key", f"{option}: 0", places, left_out))
        return found

    def is_unweighted(self, quantity: str) -> bool:
        """Whether the loss does not look at the weights of frames in its term for a quantity."""
        return (self._loss(), quantity) in _UNWEIGHTED

    def _loss(self) -> str:
        return "universal" if replays(self.args) else str(self.args.loss)


def read_heads(args: Any, source: Path) -> list[Head]:
    """The heads, one without a section of its own where there are none.

    Raises:
        ConfigError: what is no section of heads, or holds what MACE would pass over or stumble over.
    """
    if not args.heads:
        return [Head(args, where=f"{source}: ")]
    if not (sections := literal(args.heads, dict, f"{source}: heads")):
        raise ConfigError(f"{source}: heads is {args.heads!r}; expected a section for every head")
    for name, section in sections.items():
        where = f"{source}: heads.{name}"
        if not isinstance(name, str):
            raise ConfigError(f"{source}: heads: the name of a head is {name!r}; expected text: write it in quotes")
        for key in check_section(section, where):
            if key == SECTION or is_near_miss(key):
                raise ConfigError(f"{where}: unknown key {key!r}: {SECTION} stands beside heads, which all share it")
        check_keys(section, _READ, where)
        for key in _NAMES:
            check_section(section.get(key, {}), f"{where}.{key}")
        for key in ("config_type_weights", "E0s"):  # MACE reads text only, of weights it passes over what is none
            if isinstance(section.get(key), dict):
                section[key] = repr(section[key])
    args.heads = repr(sections)
    return [Head(args, section, name, f"{source}: heads.{name}.") for name, section in sections.items()]


def replayed(args: Any, source: Path) -> list[Head]:
    """The head that MACE makes of the foundation model's data; none where it makes none, or fetches or labels them."""
    if not replays(args) or args.pt_train_file in (None, *_FETCHED) or args.pseudolabel_replay:
        return []
    if args.heads and "pt_head" in literal(args.heads, dict, f"{source}: heads"):
        return []
    own = {"train_file": args.pt_train_file, "valid_file": args.pt_valid_file, "E0s": "foundation"}
    return [Head(args, own, "pt_head", f"{source}: pt_")]


def give_readable_names(args: Any, heads: Iterable[Head]) -> dict[str, str]:
    """Put `readable_name`s into options and heads; what the user gave for the options."""
    changed = {}
    for quantity, place in PLACES.items():
        option = f"{quantity}_key"
        if (key := getattr(args, option)) != readable_name(key):
            changed[option] = key
            setattr(args, option, readable_name(key))
        for head in heads:
            for holder, name in ((head.own, option), (head.own.get(f"{place}_keys", {}), quantity)):
                if name in holder:
                    holder[name] = readable_name(holder[name])
    if args.heads:
        args.heads = repr({head.name: head.own for head in heads})
    return changed


def readable_name(key: str) -> str:
    """The name under which MACE can read a label: another than ASE's own."""
    return f"ASE_{key}" if key in all_properties else key


def literal(given: Any, kind: type, where: str) -> Any:
    """An option that MACE reads as Python, or ConfigError."""
    try:
        value = ast.literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, kind):
        raise ConfigError(f"{where} is {given!r}; expected a {kind.__name__}")
    return value


def replays(args: Any) -> bool:
    """Whether MACE trains a second head on data of the foundation model, as it decides it."""
    if args.foundation_model is None or not args.multiheads_finetuning:
        return False
    return args.foundation_model in ("small", "medium", "large") or args.pt_train_file is not None
