"""A MatGL model as JSON and tensors, and back: what a checkpoint keeps. Classes come from one list."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from ase.data import chemical_symbols
from matgl.apps.pes import Potential
from torch import nn

from les_plugins.adapters.matgl.architectures import ARCHITECTURES, architecture_of
from les_plugins.adapters.matgl.model import attach_long_range, energy_model
from les_plugins.errors import CheckpointError, HostError, quoted
from les_plugins.hosting.types import HostState
from les_plugins.model.outputs import section_of
from les_plugins.storage.sizes import WeightSizes
from les_plugins.storage.states import check_agreement, dtype_name, dtype_of, known_name, rebuilt, state_of

#: Options of a Potential that are kept; what it scales and shifts by is among the tensors.
_OPTIONS = ("calc_forces", "calc_stresses", "calc_hessian")
#: Names of tensors, by which the blocks of each architecture are counted.
_BLOCKS = {"TensorNet": r"(?:^|\.)layers\.(\d+)\.linears_tensor\.", "M3GNet": r"(?:^|\.)graph_layers\.(\d+)\."}
_ELEMENTS = frozenset(chemical_symbols[1:])
_THREE_BODY = "three_body_interactions.0.update_network_atom.layers.0.weight"
_UNSUPPORTED = ("calc_magmom", "calc_charge", "calc_repuls")


def take_apart(model: nn.Module) -> HostState:
    """Arguments and tensors of a Potential or an energy model, with a long-range part or without.

    Raises:
        HostError: an architecture or an option that a checkpoint could not build again.
    """
    base = energy_model(model)
    description = {
        "architecture": architecture_of(base),
        "arguments": {key: _encode(key, value) for key, value in base._init_args.items()},
        "dtype": dtype_name(base),
        "potential": _options(model) if isinstance(model, Potential) else None,
    }
    return state_of("matgl", model, description, section_of(model), ("matgl", "torch"))


def rebuild(state: HostState) -> nn.Module:
    """The model of a state; refuses names that are not listed and tensors that do not fit."""
    problem = _problem(state.model)
    if problem is not None:
        raise CheckpointError(f"config.json: {problem}")
    _check_sizes(state.model, WeightSizes(state.tensors))
    arguments = {key: _decode(key, value) for key, value in state.model["arguments"].items()}
    options, dtype = state.model["potential"], dtype_of(state.model.get("dtype"))

    def build() -> nn.Module:
        model: nn.Module = ARCHITECTURES[state.model["architecture"]].kind(**arguments)
        if options is not None:
            shape = options["element_refs"]
            references = None if shape is None else torch.zeros(*shape)
            model = Potential(model, element_refs=references, **{name: options[name] for name in _OPTIONS})
        return (model if state.long_range is None else attach_long_range(model, state.long_range)).to(dtype)

    model = rebuilt(state, build, "model of this MatGL")
    for name, value in state.tensors.items():
        if name.endswith("bond_expansion.rbf.cutoff"):
            check_agreement("cutoff", arguments["cutoff"], float(value))
    return model


def _check_sizes(model: Mapping[str, Any], sizes: WeightSizes) -> None:
    """Every number that the size of a model follows from: all integers among the arguments are such."""
    arguments = model["arguments"]
    elements = arguments.get("element_types", [])
    if not isinstance(elements, list) or not all(isinstance(name, str) and name in _ELEMENTS for name in elements):
        raise CheckpointError(f"config.json: element_types is {quoted(elements)}; expected a list of chemical symbols")
    if "nblocks" in arguments:
        sizes.layers("nblocks", arguments["nblocks"], _BLOCKS[model["architecture"]])
    sizes.settings(arguments, {"*cutoff": "cutoff", "max_[nl]": "degree", "nblocks": "free", "*": "integers"})
    if model["architecture"] == "M3GNet":
        functions = [shape[0] for name, shape in sizes.shapes.items() if _THREE_BODY in name]
        number = arguments.get("max_n", 3) * arguments.get("max_l", 3)
        if not functions or number > functions[0]:
            raise CheckpointError(
                f"config.json: max_n * max_l is {number}; the weights are of {max(functions, default=0)} functions"
            )
    shape = None if model["potential"] is None else model["potential"]["element_refs"]
    if shape is not None:
        if not isinstance(shape, list) or len(shape) > 4:
            raise CheckpointError(f"config.json: element_refs is {quoted(shape)}; expected the lengths of a tensor")
        sizes.width("element_refs", shape)


def _options(potential: Any) -> dict[str, Any]:
    for name in _UNSUPPORTED:
        if getattr(potential, name, False):
            raise HostError(f"a checkpoint of les-plugins cannot hold a Potential with {name}=True")
    references = potential.element_refs
    shape = None if references is None else list(references.property_offset.shape)
    return {"element_refs": shape, **{name: bool(getattr(potential, name)) for name in _OPTIONS}}


def _problem(model: Mapping[str, Any]) -> str | None:
    """What in a description cannot be used, in words; None when all can."""
    architecture = known_name("architecture", model.get("architecture"), ARCHITECTURES)
    allowed = set(inspect.signature(ARCHITECTURES[architecture].kind).parameters)
    arguments = model.get("arguments")
    if not isinstance(arguments, Mapping) or (strange := sorted(set(arguments) - allowed)):
        given = quoted(strange[0]) if isinstance(arguments, Mapping) else f"{quoted(arguments)}"
        return f"arguments holds {given}; allowed: {', '.join(sorted(allowed))}"
    options = model.get("potential")
    keys = {"element_refs", *_OPTIONS}
    if options is not None and (not isinstance(options, Mapping) or set(options) != keys):
        return f"potential is {quoted(options)}; allowed: null, or {', '.join(sorted(keys))}"
    return None


def _encode(key: str, value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple | list):
        return [_encode(key, item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise HostError(f"the argument {key} of this model is {value!r}; a checkpoint can hold JSON types")


def _decode(key: str, value: Any) -> Any:
    if key == "dtype":
        return dtype_of(value)
    return tuple(value) if key == "element_types" and isinstance(value, list) else value
