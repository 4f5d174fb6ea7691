"""4,000 damaged `long_range:` and `response_loss:` sections: an error that names file and key, or a finite energy.

LES_PLUGINS_FUZZ_CALLS and LES_PLUGINS_FUZZ_SEED change how many, and from where.
"""

from __future__ import annotations

import os
import random
import resource
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from les_plugins.config import LongRangeConfig, ResponseConfig, RunConfig
from les_plugins.errors import ConfigError, LesPluginsError, LesPluginsWarning
from les_plugins.hosting.build import build_long_range, parse_section
from les_plugins.io.documents import read_yaml
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.long_range import LongRangeResult
from les_plugins.model.response_config import ResponseLossConfig

pytestmark = pytest.mark.slow

SECTIONS, BLOCKS = int(os.environ.get("LES_PLUGINS_FUZZ_CALLS", "4000")), 20
FIRST = int(os.environ.get("LES_PLUGINS_FUZZ_SEED", "0"))
SLOWEST, MOST_MEMORY = 20.0, 2 * 2**30
#: `response.total_charge` and what is under `run` have a former name or place besides.
NESTED = {"response": (*ResponseConfig.model_fields, "total_charge"), "run": tuple(RunConfig.model_fields)}
KEYS = (*LongRangeConfig.model_fields, *NESTED["response"], *NESTED["run"])
LOSS_KEYS = tuple(ResponseLossConfig.model_fields)
#: Ordinary values of each key, from which a section is put together before it is damaged.
GOOD: dict[str, list[Any]] = {
    "multipoles": [["charge"], ["charge", "dipole"], ["charge", "dipole", "quadrupole"]],
    "response": [
        None,
        {"charge": True},
        {"dipole": "isotropic"},
        {"charge": True, "dipole": "anisotropic", "solve": "self_consistent"},
        {"charge": True, "solve": "self_consistent", "total_charge": "fixed", "tolerance": 1e-6},
        {"charge": "onsite", "solve": "self_consistent", "conserve_charge": True},
        {"charge": "pairs"},
        {"charge": "pairs", "pair_softness": "edges", "pair_cutoff": 3.0},
        {"charge": "pairs", "dipole": "isotropic", "solve": "self_consistent", "pair_softness": "atoms"},
    ],
    "sigma": [0.5, 1.0, 2],
    "dl": [0.8, 1.2, 2],
    "remove_self_interaction": [True, False],
    "epsilon_infinity": [1, 1.78],
    "heads": ["auto", "equivariant", "edge"],
    "hidden": [1, 8],
    "zero_init": [True, False],
    "method": ["auto", "direct", "mesh"],
    "static_cell": [None, [9.0, 9.0, 9.0]],
    "neutralize": ["background", "shift"],
    "initial_charges": [None, {"H": 0.4, "O": -0.8}],
    "element_charges": ["trained"],
    "total_charge": ["free", "conserved", "given"],
    "screening": ["fixed", "trained"],
    "mesh_tolerance": [1e-5, 1e-3],
    "run": [{}, {"method": "direct"}, {"precision": "single", "workspace": 1}, {"net_charge_warning": None}],
}
#: Of keys that are there more often than others.
OFTEN = {"response": 0.6, "total_charge": 0.4}
#: Of `response_loss`.
WEIGHTS = [0, 0.5, 1, 30.0]
BAD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        0.0,
        -1.0,
        1e-300,
        1e300,
        1e-5,
        0.29,
        0.31,
        11.0,
        7.0,
        10**30,
        10**400,
        -(10**400),
    ),
    *(
        float("inf"),
        float("-inf"),
        float("nan"),
        "",
        "1.0",
        "yes",
        "nan",
        "charge",
        "auto",
        "x" * 10**5,
        "\u202e\x1b[31m",
    ),
    *([], {}, [[]], [None], {"a": 1}, {1: 2}, {None: None}, {"charge": True}, {"H": float("nan")}, {"Xx": 1.0}),
    *([float("nan")] * 3, [1e300] * 3, [0.0] * 3, [1e-9] * 3, ["charge"] * 1000, list(range(2000)), {"q" * 5000: 1}),
]


#: What the limits of some keys allow, or nearly.
EDGES: dict[str, list[Any]] = {
    "sigma": [0.1, 10, 10.0, 0.0999, 10.1],
    "dl": [0.3, 6, 6.0, 0.2999, 6.1],
    "epsilon_infinity": [1.0, 1e6, 1e300, 0.999],
    "hidden": [1, 4096, 4097],
    "mesh_tolerance": [1e-9, 1e-2, 0.9e-9],
    "tolerance": [1e-14, 1e-2, 1],
    "net_charge_warning": [1e-300, 1e300, 0.1, None],
    "charge": ["onsite", "pairs", "Pairs", True, False, 0, 1, ["pairs"]],
    "pair_softness": ["atoms", "edges", "edge", None],
    "pair_cutoff": [1.0, 1, 20.0, 0.999, 20.1, 4.0, 1e300, None, "3.0"],
    "conserve_charge": [True, False, "fixed", 1],
    "total_charge": ["given", "conserved", "free", "fixed", "Given", 1, -1.0],
    "screening": ["trained", "fixed", "free", True, 2.0],
    "precision": ["single", "double", "half"],
    "workspace": [1e-300, 1, 0.05, 1e300],
    "neutralize": ["keep", "refuse", "kept"],
    "initial_charges": [{}, {"H": 10, "O": -10.0}, {"H": 0.0}, {"Pb": 1.0, "I": -0.5, "H": 0.1, "O": 0.1}],
    "element_charges": ["fixed"],
    "static_cell": [[1e-3, 9.0, 9.0], [9, 9, 9], [200.0, 9.0, 9.0]],
    "method": ["nvalchemi", "mesh "],
    "multipoles": [["charge", "quadrupole"], ["Charge"]],
}


def section(dice: random.Random) -> dict[Any, Any]:
    """A section of some keys; up to three values or keys are damaged."""
    made = {
        key: dice.choice(values) for key, values in GOOD.items() if dice.random() < (0.6 if key == "response" else 0.25)
    }
    if made.get("total_charge") == "given":  # these contradict it, and are damaged in all other sections
        made = {key: value for key, value in made.items() if key not in ("zero_init", "neutralize", "screening")}
    for _ in range(dice.choice((0, 0, 1, 1, 2))):
        key: Any = dice.choice(KEYS) if dice.random() < 0.9 else dice.choice(("sigme", "", 3, None, True, "long_range"))
        place: Any = made
        nested = dice.choice(("response", "run"))
        if dice.random() < 0.4 and isinstance(made.get(nested), dict):
            place = made[nested] = dict(made[nested])
            key = dice.choice(NESTED[nested]) if dice.random() < 0.8 else key
        place[key] = dice.choice(EDGES[key] if key in EDGES and dice.random() < 0.5 else BAD)
    return made


def loss_section(dice: random.Random) -> Any:
    """A section of weights, one value or key of which may be damaged."""
    made: dict[Any, Any] = {key: dice.choice(WEIGHTS) for key in LOSS_KEYS if dice.random() < 0.4}
    if dice.random() < 0.5:
        key = dice.choice(LOSS_KEYS) if dice.random() < 0.9 else dice.choice(("dipol", "", 3, None, "weight"))
        made[key] = dice.choice(BAD)
    return made if dice.random() < 0.95 else dice.choice(BAD)


def damaged(text: str, dice: random.Random) -> bytes:
    """A YAML file as it is, or as no program would write it."""
    data, lines = text.encode(), text.splitlines()
    kind = dice.randrange(16)
    if kind == 0:
        return data.replace(b"\n", b"\n\t", 1)
    if kind == 1:
        return (text + "\n" + dice.choice(lines)).encode()
    if kind == 2:
        return data[: dice.randrange(len(data))]
    if kind == 3:
        place = dice.randrange(len(data))
        return data[:place] + dice.randbytes(dice.randrange(1, 4)) + data[place:]
    if kind == 4:
        value = dice.choice(
            ("2001-99-99", "!!python/name:os.system", "&a [*a]", "!!int x", "9" * 5000, "*b", "!!set {a, b}")
        )
        return f"{text}\nmore: {value}\n".encode()
    if kind == 5:
        return dice.choice((b"\xef\xbb\xbf" + data, text.encode("utf-16"), data + b"\x00"))
    return data


def structure(dice: random.Random) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Six atoms in a box of 6 Å: positions, cell, pbc; periodic, a slab or open."""
    flags = dice.choice(((True, True, True), (True, True, False), (False, False, False)))
    generator = torch.Generator().manual_seed(dice.randrange(2**31))
    lattice = 6.0 * torch.eye(3, dtype=torch.float64) + 0.5 * torch.rand(3, 3, generator=generator, dtype=torch.float64)
    return torch.rand(6, 3, generator=generator, dtype=torch.float64) @ lattice, lattice[None], torch.tensor([flags])


def evaluated(config: LongRangeConfig, dice: random.Random) -> LongRangeResult:
    """The long-range part of six atoms, with features as a small equivariant host has."""
    torch.manual_seed(dice.randrange(2**31))
    layout = FeatureLayout((LayerLayout(4, 3, 2),), cutoff=4.0, mean_neighbors=4.0, elements=("H", "O"))
    layer = LayerFeatures(torch.randn(6, 4), torch.randn(6, 3, 3), torch.randn(6, 2, 5))
    positions, cell, pbc = structure(dice)
    centre, neighbor = torch.tensor([(i, j) for i in range(6) for j in range(6) if i != j]).T
    edges = Edges(centre, neighbor, (positions[neighbor] - positions[centre]).float())
    features = NodeFeatures([layer], edges, torch.tensor([0, 1, 0, 1, 0, 1]))
    part = build_long_range(layout, config)
    total = torch.tensor([dice.choice((0.0, 1.0, -2.0, 0.3))]) if config.total_charge == "given" else None
    batch = torch.zeros(6, dtype=torch.long)
    found: LongRangeResult = part(features, positions, cell, pbc, batch, total_charge=total)
    return found


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_damaged_section_is_refused_by_name_or_gives_a_finite_energy(tmp_path: Path, block: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path = tmp_path / "water.yaml"
    ends: Counter[str] = Counter()
    for number in range(FIRST + block * SECTIONS // BLOCKS, FIRST + (block + 1) * SECTIONS // BLOCKS):
        dice = random.Random(number)
        made = section(dice)
        try:
            settings = {"r_max": 4.5, "name": "water", "long_range": made}
            if dice.random() < 0.3:
                settings["response_loss"] = loss_section(dice)
            text = yaml.safe_dump(settings, sort_keys=False)
        except ValueError:  # an integer of more digits than Python writes
            continue
        path.write_bytes(damaged(text, dice))
        start = time.process_time()
        ends[outcome(path, dice, f"section {number}")] += 1
        assert time.process_time() - start < SLOWEST, f"section {number}: {made}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < MOST_MEMORY
    assert min(ends["refused"], ends["finite"]) > 0.05 * SECTIONS / BLOCKS, ends  # the fuzz reaches both


def outcome(path: Path, dice: random.Random, which: str) -> str:
    """What became of a file; fails on everything that is neither our error nor a finite number."""
    try:
        settings = read_yaml(path)
        config = parse_section(settings.get("long_range"), f"{path}: long_range")
        if "response_loss" in settings:
            loss = ResponseLossConfig.parse(settings["response_loss"], f"{path}: response_loss")
            assert all(0.0 < weight < float("inf") for weight in loss.weights.values()), f"{which}: {loss}"
    except ConfigError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), f"{which}: {message}"
        assert len(message) < 5000, which
        sections = {"long_range": KEYS, "response_loss": LOSS_KEYS}
        keys = next((keys for name, keys in sections.items() if message.startswith(f"{path}: {name}: ")), ("",))
        named = any(key in message.removeprefix(str(path)) for key in keys)
        assert named, f"{which}: {message}"
        return "refused"
    assert LongRangeConfig.parse(config.to_dict()) == config, f"{which}: {config}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LesPluginsWarning)
        try:
            found = evaluated(config, dice)
        except LesPluginsError:
            return "refused later"
    for name in ("energy", "charge"):
        assert bool(getattr(found, name).isfinite().all()), f"{which}: {name} of {config}"
    return "finite"
