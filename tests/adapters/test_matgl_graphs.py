"""How a cell reaches a MatGL model with a long-range part: by its graph, whoever makes graph and Potential."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph
from matgl_models import ARCHITECTURES, batch_of, tiny_long_range, waters

from les_plugins.adapters.matgl.calculator import LesMatGLCalculator
from les_plugins.adapters.matgl.graphs import Converter, host_dtype
from les_plugins.errors import HostError


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    return tiny_long_range(request.param)


def test_importing_the_adapter_registers_nothing_with_torch():
    code = (
        "import torch.nn.modules.module as module, les_plugins.adapters.matgl.model\n"
        "print(sum(len(value) for name, value in vars(module).items() if name.startswith('_global_')"
        " and isinstance(value, dict)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "0"


def test_a_compiled_potential_of_matgl_gives_the_same_numbers(model):
    """torch.compile leaves the model as it is."""
    compiled = Potential(model.model, compile_model=True, calc_stresses=True).double().eval()
    plain = Potential(model.model, calc_stresses=True).double().eval()
    for found, expected in zip(compiled(*batch_of([waters()])), plain(*batch_of([waters()])), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pbc", [True, False])
@pytest.mark.parametrize("place", [(0.0, 0.0, 0.0), (0.1, 0.2, 0.3)])
def test_a_lone_atom_has_the_cell_that_the_graph_keeps(model, pbc, place):
    """MatGL's own graph keeps none; an open atom off the origin is known by its fractional coordinates."""
    atom = Atoms("O", [place], cell=[20.0] * 3, pbc=pbc)
    potential = copy.copy(model)
    potential.calc_stresses = False
    expected = LesMatGLCalculator(model).get_potential_energy(atom)
    with host_dtype(torch.float64):
        graph, lattice, _ = Converter(("H", "O"), 3.5).get_graph(atom)
        plain, _, _ = Atoms2Graph(("H", "O"), 3.5).get_graph(atom)
    # the energy of an ion in a box does not depend on its place
    assert potential(graph, lattice)[0].item() == pytest.approx(expected, rel=1e-12)
    if not pbc and any(place):
        assert potential(plain, lattice)[0].item() == pytest.approx(expected, rel=1e-12)
    else:
        with pytest.raises(HostError, match=r"no cell for it: convert it with .*graphs\.Converter"):
            potential(plain, lattice)


def test_a_step_of_dynamics_makes_one_graph(model, monkeypatch):
    made = []
    monkeypatch.setattr(
        Converter, "get_graph", lambda self, atoms: made.append(1) or Atoms2Graph.get_graph(self, atoms)
    )
    atoms = waters()
    atoms.calc = LesMatGLCalculator(model)
    VelocityVerlet(atoms, 0.5 * units.fs).run(3)
    assert len(made) == 4  # the start and three steps
