"""500 damaged checkpoints of a tiny model of each host: our error, or a model that is exactly what the files say."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import les_plugins
from les_plugins.api import load_model
from les_plugins.errors import LesPluginsError
from les_plugins.hosting import registry as plugins
from les_plugins.storage.checkpoint import CONFIG, MANIFEST, WEIGHTS
from les_plugins.testing.structures import waters

pytestmark = pytest.mark.slow

CHECKPOINTS, BLOCKS = 500, 10
SLOWEST, MOST_MEMORY = 20.0, 2 * 2**30
#: Values that no model, or not this one, has in that place.
BAD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        7,
        10**6,
        10**9,
        2**62,
        2**70,
        0.0,
        -1.0,
        1e-300,
        1e300,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "os.system",
        "x" * 10**5,
        "1000000x0e",
        "0e+1o+2e+3o",
        "float16",
        "\x00",
        "\x1b[31m",
        [],
        {},
        [[]],
        [10**9] * 3,
    ),
    *([1] * 2000, {"a": {"b": None}}, ["H"] * 3, [[1e300]], {"1": 0}, [1, 8, 8], "nequip.model.ModelFromCheckpoint"),
]
Damage = Callable[[Path, random.Random], bool]


#: Hosts whose packages are here.
HOSTS = [info.name for info in plugins.hosts() if info.available]


@pytest.fixture(scope="module", params=HOSTS or [pytest.param("", marks=pytest.mark.skip(reason="no host"))])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A checkpoint, and what its model says of a structure."""
    contracts = plugins.host(request.param).contract()
    contract = contracts[0] if isinstance(contracts, tuple | list) else contracts
    model = les_plugins.attach(contract().make_model(), {"response": {"charge": True, "dipole": "anisotropic"}})
    folder = les_plugins.save(model, tmp_path_factory.mktemp("sound") / "model.les", request.param)
    return folder, numbers(folder)


def numbers(folder: Path) -> np.ndarray:
    """Energy and forces of two molecules of water, of a model that holds the tensors of its file and no others."""
    model, config = load_model(folder)
    stored, own = load_file(folder / WEIGHTS), model.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[name], value) for name, value in stored.items())
    atoms = waters(2)
    atoms.calc = plugins.host(config["host"]).calculator(model, config, "cpu")
    return np.append(atoms.get_forces().ravel(), atoms.get_potential_energy())


def seal(folder: Path) -> None:
    """Make the manifest fit the files again, as somebody who forges a checkpoint would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in items for place in places(item, (*path, key))]


# Each damages a folder and says whether what it leaves may be another model (True), or must be the very same one.
def flip_bits(folder: Path, dice: random.Random) -> bool:
    path = folder / dice.choice((CONFIG, WEIGHTS, MANIFEST))
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice((1, 1, 8))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    return False


def cut(folder: Path, dice: random.Random) -> bool:
    path = folder / dice.choice((CONFIG, WEIGHTS, MANIFEST))
    data = path.read_bytes()
    path.write_bytes(
        dice.choice((data[: dice.randrange(len(data))], data + dice.randbytes(9), data[dice.randrange(99) :]))
    )
    return False


def put_something_else(folder: Path, dice: random.Random) -> bool:
    name, other = dice.sample((CONFIG, WEIGHTS, MANIFEST), 2)
    path, kind = folder / name, dice.randrange(6)
    data = path.read_bytes()
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(dice.choice(("/dev/zero", "/dev/null", "/nowhere", name, other)))
    elif kind == 2:
        (folder / "elsewhere").write_bytes(data)
        path.symlink_to("elsewhere")
    elif kind == 3:
        os.mkfifo(path)
    elif kind == 4:
        path.write_bytes((folder / other).read_bytes())
    return False


def add_files(folder: Path, dice: random.Random) -> bool:
    (folder / dice.choice(("sitecustomize.py", "__init__.py", "model.pt", ".hidden", "config.yaml"))).write_bytes(
        b"raise SystemExit('executed')"
    )
    (folder / "more").mkdir()
    return False


def forge_config(folder: Path, dice: random.Random) -> bool:
    config = json.loads((folder / CONFIG).read_text())
    for _ in range(dice.choice((1, 1, 2))):
        roots = ("model", "model", "model", "long_range", "versions", "") if dice.random() < 0.8 else ("",)
        root = dice.choice(roots)
        found = [place for place in places(config) if not root or place[0] == root]
        if not found:  # what was there is gone
            break
        *path, last = dice.choice(found)
        target = config
        for key in path:
            target = target[key]
        kind = dice.randrange(8)
        if kind == 0:
            del target[last]
        elif kind == 1 and isinstance(target, dict):
            target[dice.choice(("", "_target_", "x" * 1000, "kwargs"))] = dice.choice(BAD)
        elif kind == 2 and isinstance(target[last], int | float):
            target[last] = target[last] * dice.choice((-1, 2, 0.5, 10, 1000, 1e-6))
        else:
            target[last] = dice.choice(BAD)
    (folder / CONFIG).write_text(json.dumps(config))
    seal(folder)
    return True


def forge_text(folder: Path, dice: random.Random) -> bool:
    text = (folder / CONFIG).read_text()
    kind = dice.randrange(5)
    if kind == 0:
        text = "[" * 50_000 + text
    elif kind == 1:
        text = '{"host": "os",' + text[1:]
    elif kind == 2:
        text = text.replace(": ", ": " + "9" * 5000, 1)
    elif kind == 3:
        text = text + dice.choice(("x", "{}", "\x00"))
    else:
        text = text.encode().decode("latin-1")[: dice.randrange(len(text))]
    (folder / CONFIG).write_text(text)
    seal(folder)
    return True


def forge_tensors(folder: Path, dice: random.Random) -> bool:
    tensors = load_file(folder / WEIGHTS)
    for _ in range(dice.choice((1, 1, 3))):
        name, other = dice.sample(sorted(tensors), 2)
        value, kind = tensors[name], dice.randrange(9)
        if kind == 0:
            del tensors[name]
        elif kind == 1:
            tensors[dice.choice(("base", "x" * 5000, "", f"{name}.more"))] = value.clone()
        elif kind == 2:
            tensors[name] = value.to(
                dice.choice((torch.float16, torch.float32, torch.int64, torch.bool, torch.bfloat16))
            )
        elif kind == 3:
            tensors[name] = torch.zeros(dice.choice(((0,), (7,), (1, 1, 1, 1), (*value.shape, 2))), dtype=value.dtype)
        elif kind == 4:
            tensors[name], tensors[other] = tensors[other].clone(), value.clone()
        elif kind == 5 and value.is_floating_point():
            tensors[name] = torch.full_like(value, dice.choice((float("nan"), float("inf"), float("-inf"))))
        elif value.is_floating_point():
            tensors[name] = value * dice.choice((-1.0, 0.0, 1e-300, 1e10, 1e30, 1e150, 1e300))
        elif value.dtype != torch.bool:
            tensors[name] = value + dice.choice((-(10**9), -1, 1, 10**9, 2**62))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
    seal(folder)
    return True


def forge_header(folder: Path, dice: random.Random) -> bool:
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, kind = json.loads(data[8 : 8 + length]), dice.randrange(6)
    name = dice.choice([key for key in header if key != "__metadata__"])
    if kind == 0:
        header[name]["shape"] = dice.choice(([2**40], [-1], [2**62, 4], [], [1.5], "x", None, [0] * 1000))
    elif kind == 1:
        header[name]["data_offsets"] = dice.choice(([0, 2**62], [8, 0], [0], [-8, 0], None, [0, 8]))
    elif kind == 2:
        header[name]["dtype"] = dice.choice(("F64", "F32", "I8", "C64", "F8_E4M3", "BOOL", "X", 3))
    elif kind == 3:
        header["__metadata__"] = dice.choice(({"a": "x" * 10**6}, {"a": 1}, [], "x"))
    elif kind == 4:
        header = dice.choice(([], {}, {"a": header[name]}, {**header, "b": header[name]}))
    text = json.dumps(header).encode()
    length = dice.choice((0, 2**63, 10**9, len(text) + 1, len(text) - 1)) if kind == 5 else len(text)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + text + data[8 + struct.unpack("<Q", data[:8])[0] :])
    seal(folder)
    return True


def forge_bits(folder: Path, dice: random.Random) -> bool:
    path = folder / dice.choice((CONFIG, WEIGHTS))
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice((1, 4, 64))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)
    seal(folder)
    return True


def damage_manifest(folder: Path, dice: random.Random) -> bool:
    manifest = json.loads((folder / MANIFEST).read_text())
    *path, last = dice.choice(places(manifest))
    target = manifest
    for key in path:
        target = target[key]
    target[last] = dice.choice(BAD)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return False


DAMAGES: tuple[Damage, ...] = (
    *(flip_bits, cut, put_something_else, add_files, forge_text, forge_header, forge_bits, damage_manifest),
    *(forge_config,) * 6,
    *(forge_tensors,) * 4,
)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_damaged_checkpoint_is_refused_or_is_what_its_files_say(
    sound: tuple[Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    folder, right = sound
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    ends: Counter[str] = Counter()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"executed: {command}"))
    for number in range(block * CHECKPOINTS // BLOCKS, (block + 1) * CHECKPOINTS // BLOCKS):
        dice = random.Random(number)
        copy = tmp_path / "copy.les"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        damage = dice.choice(DAMAGES)
        may_differ = damage(copy, dice)
        start, used = time.monotonic(), time.process_time()
        ends[outcome(copy, right, may_differ, f"checkpoint {number}, {damage.__name__}")] += 1
        slow = time.process_time() - used > SLOWEST or time.monotonic() - start > 10.0 * SLOWEST  # a busy machine
        assert not slow, f"checkpoint {number}, {damage.__name__}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MOST_MEMORY
    assert ends["refused"] > 0.3 * CHECKPOINTS / BLOCKS, ends
    assert ends["same"] + ends["another model"] > 0, ends


def outcome(copy: Path, right: np.ndarray, may_differ: bool, which: str) -> str:
    """What became of a folder; fails on all but our errors, the right numbers, and finite ones of what it says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = numbers(copy)
    except LesPluginsError as error:
        message = str(error)
    else:
        if np.array_equal(found, right):
            return "same"
        assert may_differ, which
        assert np.isfinite(found).all(), which
        return "another model"
    assert 20 < len(message) < 5000, f"{which}: {message}"
    return "refused"
