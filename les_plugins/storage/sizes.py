"""What a checkpoint's config may ask its host to build: nothing larger than what its weights hold.

A config of a few bytes can describe a model of terabytes. `checkpoint.load_model` and the adapters' state.py call this.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration
from torch.overrides import TorchFunctionMode

from les_plugins.errors import CheckpointError, quoted

#: Highest degree of irreducible representations: e3nn has spherical harmonics up to it.
HIGHEST_DEGREE = 11
#: Longest cutoff of a model, Å.
LONGEST_CUTOFF = 100.0
#: Different irreps that one layer can have: two parities of each degree.
_MOST_IRREPS = 2 * (HIGHEST_DEGREE + 1)
#: A width that the weights do not show, such as that of a network of no layers, is allowed up to here.
_ALWAYS_ALLOWED = 512
#: Beside its tensors a model needs other ones when it is made: coefficients, examples to trace. 128 MB in float64.
_SCRATCH = 1 << 24
_IRREP = re.compile(r"(?:(\d{1,18})x)?(\d{1,3})([eo])")


class WeightSizes:
    """Sizes of the tensors of a checkpoint, which bound those of the model that it describes.

    Args:
        tensors: name → tensor, as read from the file.

    Attributes:
        shapes: name → shape.
        elements: numbers in all of them.
        widest: longest dimension of any.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.elements = sum(math.prod(shape) for shape in self.shapes.values())
        self.widest = max((length for shape in self.shapes.values() for length in shape), default=0)

    def settings(self, settings: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
        """What a host's model is made from, key by key, and whatever sections and lists there are in it.

        Args:
            settings: as read from config.json.
            kinds: pattern of keys, as of file names, to what their values are: "cutoff", "width", "depth", "degree" or
                "irreps", as the methods below; "integers", of which each is a width; "free", what no size follows
                from, with everything in it. The first pattern that fits is taken; of a key without one, only what is in
                a section is looked at.
        """
        for key, value in settings.items():
            kind = next((kind for pattern, kind in kinds.items() if fnmatchcase(key, pattern)), None)
            if isinstance(value, Mapping | list | tuple):
                self.listed(key, value)
            if kind == "free":
                continue
            if isinstance(value, Mapping):
                self.settings(value, kinds)
            elif kind == "irreps" and value:  # of one layer, or of each; or their highest degree
                layers = value if isinstance(value, list | tuple) else [value]
                self.depth(key, len(layers))
                for layer in layers:
                    (self.degree if isinstance(layer, int) else self.irreps)(key, layer)
            elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
                for item in value:
                    self.settings(item if isinstance(item, Mapping) else {key: item}, kinds)
            elif kind == "integers":
                items = value if isinstance(value, list | tuple) else [value]
                self.width(key, [item for item in items if isinstance(item, int) and not isinstance(item, bool)])
            elif kind not in (None, "irreps") and value is not None:
                getattr(self, kind)(key, value)

    def width(self, key: str, value: Any, lowest: int = 0) -> None:
        """A number of channels, functions or neurons, or a list of them: a dimension of some tensor."""
        for item in value if isinstance(value, list | tuple) else [value]:
            self._integer(key, item, lowest, max(self.widest, _ALWAYS_ALLOWED))
        if isinstance(value, list | tuple):
            self.listed(key, value)

    def depth(self, key: str, value: Any, lowest: int = 0) -> None:
        """A number of layers, or a list of them: each has tensors of its own."""
        for item in value if isinstance(value, list | tuple) else [value]:
            self._integer(key, item, lowest, max(len(self.shapes), 8))
        if isinstance(value, list | tuple):
            self.listed(key, value)

    def layers(self, key: str, value: Any, pattern: str) -> None:
        """A number of layers, each with tensors of its own: as many as what the pattern's group takes from names."""
        found = {match[1] for name in self.shapes if (match := re.search(pattern, name))}
        if isinstance(value, bool) or not isinstance(value, int) or value != len(found):
            raise CheckpointError(f"config.json: {key} is {quoted(value)}; the weights have {len(found)} such layers")

    def cutoff(self, key: str, value: Any) -> None:
        """A radius: neighbour lists of a very long one fill any memory."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= LONGEST_CUTOFF:
            raise CheckpointError(f"config.json: {key} is {quoted(value)}; allowed: up to {LONGEST_CUTOFF:g} Å")

    def degree(self, key: str, value: Any, lowest: int = 0) -> None:
        """A highest degree of spherical harmonics."""
        self._integer(key, value, lowest, HIGHEST_DEGREE)

    def listed(self, key: str, value: Sequence[Any] | Mapping[Any, Any]) -> None:
        """A list that is no longer than what there are numbers for."""
        if len(value) > max(self.widest, _ALWAYS_ALLOWED):
            raise CheckpointError(f"config.json: {key} has {len(value)} items; the weights hold at most {self.widest}")

    def product(self, key: str, value: Any, numbers: int) -> None:
        """What follows from several settings: a tensor of so many numbers must fit into the weights."""
        if numbers > self.elements:
            raise CheckpointError(
                f"config.json: {key} is {quoted(value)}, which needs a tensor of {_rounded(numbers)} numbers; the "
                f"weights hold {self.elements} in all"
            )

    def mask(self, key: str, value: Any, length: int) -> None:
        """What follows from several settings: e3nn keeps masks of so many components among the tensors."""
        if length > self.widest:
            raise CheckpointError(
                f"config.json: {key} is {quoted(value)}, which makes features of {length} components; the weights hold "
                f"at most {self.widest}"
            )

    def irreps(self, key: str, value: Any) -> list[tuple[int, int, str]]:
        """Irreps of features, such as "16x0e+16x1o": (multiplicity, degree, parity) of each, which the weights hold."""
        text = value.replace(" ", "") if isinstance(value, str) else ""
        parts = [_IRREP.fullmatch(part) for part in text.split("+")] if 0 < len(text) <= 2000 else [None]
        if None in parts or len(parts) > _MOST_IRREPS:
            raise CheckpointError(
                f"config.json: {key} is {quoted(value)}; allowed: at most {_MOST_IRREPS} irreps, such as 16x0e+16x1o"
            )
        found = [(int(part[1] or 1), int(part[2]), part[3]) for part in parts if part is not None]
        for multiplicity, degree, _ in found:
            self.degree(f"{key} {quoted(value)}: degree", degree)
            self.width(f"{key} {quoted(value)}: multiplicity", multiplicity)
        self.product(key, value, sum(multiplicity * (2 * degree + 1) for multiplicity, degree, _ in found))
        return found

    def _integer(self, key: str, value: Any, lowest: int, highest: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise CheckpointError(
                f"config.json: {key} is {quoted(value)}; allowed with these weights: an integer {lowest} … {highest}"
            )


def check_description(value: Any, key: str = "model", depth: int = 0) -> None:
    """Refuse, in what config.json says about a model, what no model has: NaN, infinity, huge integers, deep nesting."""
    if depth > 32:
        raise CheckpointError(f"config.json: {key} is nested more than 32 levels deep")
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_description(item, f"{key}.{name}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_description(item, key, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise CheckpointError(f"config.json: {key} holds {value}; allowed: finite numbers")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise CheckpointError(f"config.json: {key} holds an integer of more than 64 bits")


@contextmanager
def building(sizes: WeightSizes) -> Iterator[None]:
    """Within it, making a model that is larger than the weights raises CheckpointError before it takes the memory."""
    limit = _Limit(sizes)
    handles = [
        registration.register_module_parameter_registration_hook(limit.parameter),
        registration.register_module_module_registration_hook(limit.module),
    ]
    try:
        with limit:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Limit(TorchFunctionMode):
    """Counts the parameters and modules that are made, and looks at each tensor's size before it is allocated."""

    def __init__(self, sizes: WeightSizes) -> None:
        super().__init__()
        # MACE and MatGL allocate and register less than once what they save; hosts may wrap and register again
        self._largest = 16 * sizes.elements + _SCRATCH
        self._parameters_left = 4 * sizes.elements + 2**16
        self._modules_left = 50 * len(sizes.shapes) + 2000
        self._thread = threading.get_ident()  # PyTorch's hooks see what every thread makes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            size = kwargs.get("size", args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args)
            # a length may be a tensor too, as what max(…) of a list of them returns
            if all(isinstance(length, int | Tensor) for length in size):
                self._check(math.prod(map(int, size)))
        elif func in (torch.eye, torch.arange):
            lengths = [abs(item) for item in args if isinstance(item, int | float)]
            longest = max(lengths, default=0)
            self._check(longest * lengths[-1] if func is torch.eye and lengths else longest)
        return func(*args, **kwargs)

    def _check(self, numbers: float) -> None:
        if numbers > self._largest:
            raise CheckpointError(
                f"config.json describes a model with a tensor of {_rounded(numbers)} numbers: {_TOO_MUCH}"
            )

    def parameter(self, module: nn.Module, name: str, parameter: Any) -> None:
        """Called by PyTorch for each parameter."""
        if parameter is not None and threading.get_ident() == self._thread:
            self._parameters_left -= parameter.numel()
            if self._parameters_left < 0:
                raise CheckpointError(f"config.json describes a model of more parameters: {_TOO_MUCH}")

    def module(self, module: nn.Module, name: str, submodule: Any) -> None:
        """Called by PyTorch for each module."""
        self._modules_left -= threading.get_ident() == self._thread
        if self._modules_left < 0:
            raise CheckpointError(f"config.json describes a model with more modules: {_TOO_MUCH}")


_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
_TOO_MUCH = "more than its weights can fill"


def _rounded(numbers: float) -> str:
    """A count, also one that no float holds."""
    text = str(numbers) if numbers < 10**12 else f"more than 10^{min(int(numbers).bit_length() * 3 // 10, 9999)}"
    return text
