"""The shared reference numbers, where they lie beside the repository, in every mode that a case applies to."""

import importlib.util
import json
from functools import partial
from pathlib import Path

import pytest
import torch

from les_plugins import ElectrostaticsResult, LatentElectrostatics, Multipoles

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
CASES = sorted(FOLDER.glob("[0-9]*.json"))
READ = {path: json.loads(path.read_text()) for path in CASES}


def of_one_rank(**settings):
    """A layer in a process group; the test that asks for it has made one."""
    return LatentElectrostatics(process_group=torch.distributed.group.WORLD, **settings)


def in_training(**settings):
    return LatentElectrostatics(**settings).train()


class Traced:
    """A layer that is traced to TorchScript when it is called, its grid larger than the cell on every side."""

    def __init__(self, **settings) -> None:
        self.settings = settings

    def __call__(self, positions, cell, pbc, batch, multipoles, softness=None, polarizability=None):
        lengths = tuple((1.3 * cell.detach().norm(dim=2).amax(0)).tolist())
        layer = LatentElectrostatics(**self.settings, static_cell=lengths)
        given = (positions, cell, *multipoles, softness, polarizability)
        present = [place for place, value in enumerate(given) if value is not None]

        def run(*values):
            now = [None] * len(given)
            for place, value in zip(present, values, strict=True):
                now[place] = value
            result = layer(now[0], now[1], pbc, batch, Multipoles(*now[2:5]), *now[5:])
            return tuple(value for value in result if value is not None)

        values = tuple(given[place] for place in present)
        found = torch.jit.trace(run, values, check_trace=False)(*values)
        return ElectrostaticsResult(*found, *[None] * (len(ElectrostaticsResult._fields) - len(found)))


def every(case):
    return True


def periodic(case):
    """Open structures are refused there: test_processes.py, test_compilers.py."""
    return bool(torch.tensor(case["inputs"]["cell"]).any())


def without_response(case):
    """The reference's response is one-shot; without one there is nothing to answer."""
    return all(case["inputs"].get(name) is None for name in ("kappa", "alpha"))


MESH = {"method": "mesh", "mesh_tolerance": 1e-9}  # the finest there is: the reference allows 1e-8
#: How the layer is made, and which cases it then has to pass.
MODES = {
    "auto": (LatentElectrostatics, every),
    "direct": (partial(LatentElectrostatics, method="direct"), every),
    "direct, in small chunks": (partial(LatentElectrostatics, method="direct", workspace=1e-3), every),
    "direct, in training": (partial(in_training, method="direct"), every),
    "direct, one rank of a process group": (of_one_rank, periodic),
    "mesh": (partial(LatentElectrostatics, **MESH), every),
    "mesh, in training": (partial(in_training, **MESH), every),
    "mesh, one rank of a process group": (partial(of_one_rank, **MESH), periodic),
    "self-consistent": (partial(LatentElectrostatics, response="self_consistent"), without_response),
    "TorchScript": (Traced, periodic),
}


@pytest.fixture
def _process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def differences(path, layer):
    """Quantities of a case that are further from the reference than the reference allows."""
    dtype = torch.get_default_dtype()
    spec = importlib.util.spec_from_file_location("reference_check", FOLDER / "check.py")
    check = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(check)  # sets float64 as the default
        check.LatentElectrostatics = layer
        case = READ[path]
        results = check.bec_case(case) if "BEC" in case["outputs"] else check.energy_case(case)
    finally:
        torch.set_default_dtype(dtype)
    return {name: error for name, (error, tolerance) in results.items() if not error <= tolerance}


@pytest.mark.skipif(not CASES, reason="no shared/reference beside the repository")
@pytest.mark.usefixtures("_process_group")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript as such
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes become constants, which are those of the case
@pytest.mark.parametrize(
    ("mode", "path"),
    [
        pytest.param(mode, path, id=f"{mode}, {path.stem}")
        for mode, (_, applies) in MODES.items()
        for path, case in READ.items()
        if applies(case)
    ],
)
def test_layer_agrees_with_the_independent_implementation(mode, path):
    # each quantity comes with the tolerance that the reference states for it
    assert differences(path, MODES[mode][0]) == {}
