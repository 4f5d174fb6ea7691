"""A device that is only pretended: its tensors compute on the CPU, and refuse to be mixed with tensors of the CPU::

    with PretendedDevice() as there:
        x = there(torch.rand(3))
        y = x + torch.ones(3)               # raises: the two are on different devices
    print(there.operators, there.waits)

It finds mixed devices without an accelerator, and counts what an accelerator charges for: operators, each of which is
at least one launch, and waits, in which the program stands still until the device has answered. It says nothing of
kernels, memory or time, and TorchScript does not run on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

#: A device that every build of torch knows; no tensor here is one without values.
DEVICE = torch.device("meta")
COPIES = {"aten::_to_copy", "aten::copy_"}
INDEXING = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}
#: Whose result the program has to know: a number, or the shape of a tensor.
WAITS = {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::bincount", "aten::masked_select"}
HOST_VALUES = {"aten::_local_scalar_dense", "aten::equal"}
#: What sets a bit in place of computing.
LAZY = {"aten::_conj", "aten::_neg_view"}
#: Zeros without memory, as the second derivative of `abs` has them: the dispatcher alone knows them, and it was above.
NO_MEMORY = "aten::_efficientzerotensor"


class MixedDevicesError(RuntimeError):
    """An operation on tensors of both devices, as an accelerator refuses it."""


class PretendedTensor(Tensor):
    """A tensor on the pretended device; `values_inside` holds its values on the CPU."""

    #: These have values.
    is_meta = False
    values_inside: Tensor
    device_of: PretendedDevice

    @staticmethod
    def __new__(cls, inner: Tensor, device: PretendedDevice) -> PretendedTensor:
        layout: dict[str, Any] = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made: Any = Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=DEVICE, **layout)
        made.values_inside, made.device_of = inner, device
        found: PretendedTensor = made
        return found

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PretendedTensor({self.values_inside!r})"

    def tolist(self) -> Any:
        """The values, for which the program waits."""
        self.device_of.waits += 1
        return self.values_inside.tolist()

    def numpy(self, *arguments: Any, **options: Any) -> Any:
        """Refused, as by every accelerator."""
        raise TypeError("a tensor of the pretended device has no numpy array: copy it to the CPU first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        device = next(t.device_of for t in tree_flatten((args, kwargs))[0] if isinstance(t, PretendedTensor))
        return device.run(func, args, dict(kwargs or {}))


class PretendedDevice(TorchDispatchMode):
    """The pretended device, inside the `with` of which its tensors are made and used.

    Attributes:
        operators: run since `reset`, on either device.
        waits: likewise, for a value of the device or a shape that depends on one.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = self.waits = 0
        self._before: dict[tuple[Any, str], Any] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """A copy on the pretended device, without a graph."""
        return PretendedTensor(tensor.detach().clone(), self)

    def reset(self) -> None:
        """Count from zero."""
        self.operators = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, dict(kwargs or {}))

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operator: on the CPU, its result on the device that an accelerator would leave it on."""
        name = func._schema.name
        self.operators += 1
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        there = [value for value in tensors if isinstance(value, PretendedTensor)]
        here = [value for value in tensors if not isinstance(value, PretendedTensor) and value.dim() > 0]
        if any(value.device.type == DEVICE.type for value in here):
            raise NotImplementedError(f"{name}: a tensor was made below the dispatcher; see _patches")
        if there and here and name not in COPIES and not (name in INDEXING and isinstance(args[0], PretendedTensor)):
            shapes = [[tuple(value.shape) for value in side] for side in (there, here)]
            raise MixedDevicesError(f"{name}: shapes {shapes[0]} on the device, {shapes[1]} on the CPU")
        device = kwargs.get("device")
        asked = None if device is None else torch.device(device).type == DEVICE.type
        self.waits += int(bool(there) and self._waits(name, args, asked))
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        if asked:
            kwargs.pop("pin_memory", None)
        func = torch.ops.aten.zeros.default if name == NO_MEMORY else func
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if name in HOST_VALUES:
            return out
        if name in LAZY:  # the bit would stay on the values inside, where nothing outside sees it
            out = out.resolve_conj().resolve_neg()
        if name == "aten::copy_" or (func._schema.is_mutable and args and out is _inner(args[0])):
            return args[0]
        if not (bool(there) if asked is None else asked):
            return out
        return tree_map(lambda value: PretendedTensor(value, self) if type(value) is Tensor else value, out)

    @staticmethod
    def _waits(name: str, args: Any, asked: bool | None) -> bool:
        if name == "aten::_to_copy":
            return asked is False
        if name in INDEXING:  # a mask is turned into indices, the number of which has to be known
            masks = [index for index in args[1] if isinstance(index, Tensor) and index.dtype == torch.bool]
            return bool(masks)
        return name in WAITS

    def __enter__(self) -> PretendedDevice:
        patches = self._patches()
        self._before = {(owner, name): getattr(owner, name) for owner, name in patches}
        for (owner, name), value in patches.items():
            setattr(owner, name, value)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        for (owner, name), value in self._before.items():
            setattr(owner, name, value)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _patches(self) -> dict[tuple[Any, str], Callable[..., Any]]:
        """In the place of what makes tensors below the dispatcher, or looks at the device before it."""
        get, put, new = Tensor.__getitem__, Tensor.__setitem__, Tensor.new_tensor
        repeat, from_data = torch.repeat_interleave, torch.tensor

        def make(function: Callable[..., Any]) -> Callable[..., Any]:
            def made(*args: Any, device: Any = None, **kwargs: Any) -> Any:
                if device is not None and torch.device(device).type == DEVICE.type:
                    return PretendedTensor(function(*args, **kwargs), self)
                return function(*args, **({} if device is None else {"device": device}), **kwargs)

            return made

        def new_tensor(one: Tensor, data: Any, **kwargs: Any) -> Tensor:
            if not isinstance(one, PretendedTensor):
                return new(one, data, **kwargs)
            return PretendedTensor(from_data(data, dtype=kwargs.get("dtype", one.dtype)), self)

        def repeated(*given: Any, **kwargs: Any) -> Tensor:
            tensors = [value for value in given if isinstance(value, Tensor)]
            there = [isinstance(value, PretendedTensor) for value in tensors]
            if not any(there):
                return repeat(*given, **kwargs)
            if not all(there):
                raise MixedDevicesError("repeat_interleave of tensors of both devices")
            self.waits += int(kwargs.get("output_size") is None and len(tensors) == 2)
            return PretendedTensor(repeat(*map(_inner, given), **kwargs), self)

        def on_device(index: Any) -> Any:
            if isinstance(index, tuple):
                return tuple(map(on_device, index))
            here = isinstance(index, list) or (isinstance(index, Tensor) and not isinstance(index, PretendedTensor))
            return PretendedTensor(torch.as_tensor(index), self) if here else index

        return {
            (torch, "tensor"): make(torch.tensor),
            (torch, "as_tensor"): make(torch.as_tensor),
            (torch, "repeat_interleave"): repeated,
            (Tensor, "repeat_interleave"): repeated,
            (Tensor, "new_tensor"): new_tensor,
            (Tensor, "__getitem__"): lambda one, index: get(
                one, on_device(index) if isinstance(one, PretendedTensor) else index
            ),
            (Tensor, "__setitem__"): lambda one, index, value: put(
                one, on_device(index) if isinstance(one, PretendedTensor) else index, value
            ),
        }


def _inner(value: Any) -> Any:
    return value.values_inside if isinstance(value, PretendedTensor) else value
