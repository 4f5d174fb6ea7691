"""What a committee and the process of a member say to each other: a JSON header and arrays, as one NPZ; no pickles."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from les_plugins.errors import HostError

_LENGTH = struct.Struct("<Q")
#: Largest message, bytes: Z* of a million atoms are 72 MB.
_LARGEST = 2**32
#: Kinds of NumPy's types that are sent.
_NUMBERS = "biuf"


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
    """Write one message."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(dict(header)).encode(), dtype=np.uint8)
    named: dict[str, Any] = {f"array:{name}": np.asarray(value) for name, value in (arrays or {}).items()}
    np.savez(buffer, header=text, **named)
    data = buffer.getvalue()
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read one message.

    Raises:
        EOFError: the other side has ended.
        HostError: what came is no message.
    """
    head = _exactly(stream, _LENGTH.size)
    (length,) = _LENGTH.unpack(head)
    if length > _LARGEST:
        raise HostError("the process of a member of the committee sent something that is no message")
    with np.load(io.BytesIO(_exactly(stream, length)), allow_pickle=False) as file:
        header = json.loads(file["header"].tobytes().decode())
        prefix = "array:"
        arrays = {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}
    return header, arrays


def packed(atoms: Atoms) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A structure as header and arrays: geometry, what lies on the atoms, and numbers, words and arrays of `info`."""
    info: dict[str, Any] = {}
    arrays = {f"atoms:{name}": value for name, value in atoms.arrays.items() if value.dtype.kind in _NUMBERS}
    for key, value in atoms.info.items():
        plain = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
        if isinstance(plain, bool | int | float | str):
            info[key] = plain
        elif isinstance(value, np.ndarray | list | tuple) and (array := _array(value)) is not None:
            arrays[f"info:{key}"] = array
    return {"info": info}, {**arrays, "cell": atoms.cell.array, "pbc": atoms.pbc}


def unpacked(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Atoms:
    """The structure that `packed` took apart."""
    own, info = _named("atoms:", arrays), _named("info:", arrays)
    atoms = Atoms(own.pop("numbers"), own.pop("positions"), cell=arrays["cell"], pbc=arrays["pbc"])
    for name, value in own.items():
        atoms.set_array(name, value)
    atoms.info.update({**header["info"], **info})
    return atoms


def _named(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _array(value: Any) -> NDArray[Any] | None:
    """Numbers as an array; None for what is none."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        return None
    return array if array.dtype.kind in _NUMBERS else None


def _exactly(stream: BinaryIO, length: int) -> bytes:
    parts = []
    while length:
        data = stream.read(length)
        if not data:
            raise EOFError
        parts.append(data)
        length -= len(data)
    return b"".join(parts)
