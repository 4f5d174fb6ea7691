"""The MatGL adapter: what is MatGL's own, beyond the contract (test_matgl_contract.py)."""

from __future__ import annotations

import copy
import importlib.metadata

import numpy as np
import pytest

pytest.importorskip("matgl", reason="matgl is not installed: nox -s tests-matgl")

import matgl
import torch
from ase import Atoms, units
from matgl.apps.pes import Potential
from matgl.ext.ase import Atoms2Graph, PESCalculator
from matgl.ext.lammps import export_lammps_model
from matgl.ext.pymatgen import Molecule2Graph, Structure2Graph
from matgl.models import QET, TensorNet
from matgl.utils.training import PotentialLightningModule
from matgl_models import ARCHITECTURES, FULL, batch_of, energy, long_range_part, tiny_long_range, tiny_model, waters
from matgl_models import tiny_potential as tiny_host
from pymatgen.io.ase import AseAtomsAdaptor

import les_plugins
from les_plugins.adapters.matgl.architectures import ARCHITECTURES as LISTED
from les_plugins.adapters.matgl.calculator import LesMatGLCalculator
from les_plugins.adapters.matgl.graphs import host_dtype
from les_plugins.adapters.matgl.model import LongRangeModel, feature_layout, node_features, periodicity
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.hosting.registry import host


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(architecture):
    return tiny_long_range(architecture)


def tensors_of(atoms: Atoms, **changes):
    """Last layer of a bare TensorNet as the heads read it: vectors (N, C, 3), tensors (N, C, 5), scalars (N, C)."""
    potential = tiny_host(nblocks=2, **changes)
    graph, lattice = batch_of([atoms])
    potential(graph, lattice)
    (layer,) = LISTED["TensorNet"].layers(potential.model, graph)
    return [part.detach() for part in (layer.scalars, layer.vectors, layer.tensors)]


def test_the_antisymmetric_part_of_tensornets_tensors_is_a_polar_vector():
    """1o, not 1e: else it could be no dipole. Inversion turns it round, and leaves scalars and tensors as they are."""
    atoms = waters(pbc=False)
    inverted = atoms.copy()
    inverted.positions *= -1
    scalars, vectors, tensors = tensors_of(atoms)
    turned_scalars, turned_vectors, turned_tensors = tensors_of(inverted)
    assert vectors.abs().max().item() > 1e-3
    torch.testing.assert_close(turned_vectors, -vectors, rtol=0, atol=1e-12)
    torch.testing.assert_close(turned_scalars, scalars, rtol=0, atol=1e-12)
    torch.testing.assert_close(turned_tensors, tensors, rtol=0, atol=1e-12)


def test_in_so3_mode_the_host_itself_knows_left_from_right():
    """So a dipole of mixed parity adds nothing that the host's own energy does not have."""
    atoms = waters(pbc=False)
    inverted = atoms.copy()
    inverted.positions *= -1
    chiral = tiny_host(nblocks=2, equivariance_invariance_group="SO(3)")
    assert abs(energy(chiral, atoms) - energy(chiral, inverted)) > 1e-9
    vectors, turned = (tensors_of(frame, equivariance_invariance_group="SO(3)")[1] for frame in (atoms, inverted))
    assert (vectors + turned).abs().max().item() > 1e-6


@pytest.mark.parametrize("std", [1.0, 0.2, 31.0])
@pytest.mark.parametrize("through", ["Potential", "energy model", "trainer"])
def test_the_long_range_energy_is_in_electronvolts_whatever_scale_the_potential_has(architecture, std, through):
    section, frames = {**FULL, "heads": "edge"}, [waters(), waters(2, pbc=False)]
    scaling = {"data_std": torch.tensor(std), "data_mean": torch.tensor(-2.5), "element_refs": [-1.0, -3.0]}
    torch.manual_seed(1)
    if through == "Potential":
        potential = les_plugins.attach(Potential(tiny_model(architecture), calc_stresses=True, **scaling), section)
    else:
        inner = les_plugins.attach(tiny_model(architecture), section)
        options = {"data_std": std, "data_mean": -2.5, "element_refs": np.array([-1.0, -3.0]), "stress_weight": 0.1}
        potential = (
            Potential(inner, calc_stresses=True, **scaling)
            if through == "energy model"
            else PotentialLightningModule(model=inner, **options).model
        )
    potential = potential.double().eval()
    bare = Potential(tiny_model(architecture), calc_stresses=True, **scaling).double().eval()
    caught = []
    long_range_part(potential).register_forward_hook(lambda module, inputs, output: caught.append(output))
    ours, hosts = potential(*batch_of(frames)), bare(*batch_of(frames))
    (latent,) = caught
    assert latent.energy.abs().min().item() > 1e-6
    torch.testing.assert_close(ours[0], hosts[0] + latent.energy, rtol=1e-13, atol=1e-13)  # rounding of one sum


def test_the_mean_is_divided_among_the_atoms_of_a_structure(architecture):
    scaling = {"data_std": torch.tensor(3.0), "data_mean": torch.tensor(-2.5)}
    potential = les_plugins.attach(Potential(tiny_model(architecture), **scaling), FULL).double()
    calculator = LesMatGLCalculator(potential)
    assert calculator.get_property("energies", waters()).sum() == pytest.approx(
        calculator.get_potential_energy(waters()), rel=1e-12
    )


@pytest.mark.parametrize("pbc", [True, False])
def test_matgls_own_calculator_gives_the_same_energies_forces_and_stress(model, pbc):
    atoms = waters(pbc=pbc)
    ours, theirs = LesMatGLCalculator(model), PESCalculator(model, stress_unit="eV/A3", use_voigt=True)
    with host_dtype(torch.float64):  # else MatGL's converter rounds the positions to float32
        found = [theirs.get_property(name, atoms) for name in ("energy", "forces", "stress")]
    assert ours.get_potential_energy(atoms) == pytest.approx(found[0], rel=1e-13)
    np.testing.assert_allclose(ours.get_forces(atoms), found[1], rtol=0, atol=1e-12)
    if pbc:
        np.testing.assert_allclose(ours.get_stress(atoms), found[2], rtol=0, atol=1e-13)


def test_stress_comes_in_matgls_units_from_matgl_and_in_ases_from_our_calculator(model):
    atoms = waters()
    plain = PESCalculator(model, stress_unit="GPa")
    with host_dtype(torch.float64):
        expected = plain.get_property("stress", atoms) * units.GPa
    np.testing.assert_allclose(LesMatGLCalculator(model).get_stress(atoms)[0], expected[0, 0], rtol=1e-9)


def test_pymatgen_structures_and_molecules_reach_the_same_numbers(model):
    for atoms, converter in ((waters(), Structure2Graph), (waters(pbc=False), Molecule2Graph)):
        adaptor = AseAtomsAdaptor()
        item = adaptor.get_structure(atoms) if atoms.pbc.all() else adaptor.get_molecule(atoms)
        with host_dtype(torch.float64):
            graph, lattice, _ = converter(("H", "O"), model.model.cutoff).get_graph(item)
        assert model(graph, lattice)[0].item() == pytest.approx(energy(model, atoms), rel=1e-12)


def test_an_open_structure_is_known_by_the_unit_matrix_that_matgl_gives_it():
    lattices = torch.stack([torch.eye(3), 7.0 * torch.eye(3), torch.tensor([[1.0, 0, 0], [0.1, 1.0, 0], [0, 0, 1.0]])])
    assert periodicity(lattices).tolist() == [[False] * 3, [True] * 3, [True] * 3]


def test_canary_matgls_converters_still_give_open_structures_the_unit_matrix():
    atoms = waters(pbc=False)
    _, lattice, _ = Atoms2Graph(("H", "O"), 3.5).get_graph(atoms)
    _, other, _ = Molecule2Graph(("H", "O"), 3.5).get_graph(AseAtomsAdaptor().get_molecule(atoms))
    assert torch.equal(lattice.reshape(3, 3), torch.eye(3))
    assert torch.equal(other.reshape(3, 3), torch.eye(3))


@pytest.mark.parametrize("cell", ["none", "zero", "a box"])
def test_an_open_structure_is_open_whatever_cell_it_carries(model, cell):
    atoms = waters(pbc=False)
    expected = energy(model, atoms)
    if cell == "zero":
        atoms.cell = np.zeros((3, 3))
    if cell == "a box":
        atoms.cell = 9.0 * np.eye(3)
    assert LesMatGLCalculator(model).get_potential_energy(atoms) == pytest.approx(expected, rel=1e-13)


def test_save_and_load_model_of_matgl_as_usual(model, tmp_path):
    single = copy.deepcopy(model).float()
    single.save(tmp_path)
    loaded = matgl.load_model(
        tmp_path
    ).eval()  # MatGL loads for training, where derivatives are summed in another order
    assert isinstance(loaded.model, LongRangeModel)
    for before, after in zip(single(*batch_of([waters()])), loaded(*batch_of([waters()])), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_save_and_load_model_of_matgl_take_an_energy_model_alone(architecture, tmp_path):
    bare = les_plugins.attach(tiny_model(architecture), FULL)
    bare.save(tmp_path)
    loaded = matgl.load_model(tmp_path)
    graph, lattice = batch_of([waters()], torch.float32)
    assert Potential(loaded)(graph, lattice)[0].item() == Potential(bare)(graph, lattice)[0].item()


def test_predict_structure_of_matgl_goes_through_cell_and_scale(architecture):
    bare = les_plugins.attach(tiny_model(architecture), FULL)
    item = AseAtomsAdaptor().get_structure(waters())
    expected = Potential(bare)(*batch_of([waters()], torch.float32))[0].item()
    assert bare.predict_structure(item).item() == pytest.approx(expected, rel=1e-5)  # float32
    molecule = AseAtomsAdaptor().get_molecule(waters(pbc=False))
    assert np.isfinite(bare.predict_structure(molecule).item())


def test_attaching_leaves_the_hosts_model_as_it_was_and_shares_its_weights(architecture):
    base = tiny_host(architecture)
    before = energy(base, waters())
    attached = les_plugins.attach(base, FULL)
    assert energy(base, waters()) == before
    assert energy(attached, waters()) != before
    assert attached.model.base is base.model
    with torch.no_grad():
        attached.data_std.fill_(2.0)
    assert energy(attached, waters()) != before


def test_a_model_can_be_copied_after_it_was_evaluated(model):
    model.train()(*batch_of([waters()]))
    model.eval()
    assert energy(copy.deepcopy(model), waters()) == energy(model, waters())


def test_one_structure_without_batch_field_is_the_same(model):
    graph, lattice = batch_of([waters()])
    with host_dtype(torch.float64):
        single, cell, _ = Atoms2Graph(("H", "O"), model.model.cutoff).get_graph(waters())
    torch.testing.assert_close(model(single, cell)[1], model(graph, lattice)[1], rtol=0, atol=1e-12)


def test_the_hessian_of_matgl_has_the_long_range_part(model):
    calculator = LesMatGLCalculator(model)
    potential = copy.copy(model)
    potential.calc_hessian = True
    atoms, step = waters(2), 1e-4
    hessian = potential(*batch_of([atoms]))[3].view(6, 3, 6, 3)
    forces = []
    for shift in (-step, step):
        moved = atoms.copy()
        moved.positions[1, 0] += shift
        forces.append(calculator.get_forces(moved))
    difference = -(forces[1] - forces[0]) / (2 * step)
    # central difference: step² times the fourth derivative of the energy
    np.testing.assert_allclose(hessian[1, 0].detach(), difference, rtol=0, atol=1e-5 * hessian.abs().max().item())


def test_structures_without_pairs_have_energy_and_forces_and_no_stress(model):
    """MatGL keeps its lattice on edges: without any there is none that could be strained."""
    calculator = LesMatGLCalculator(model)
    box = Atoms("OH", [[0, 0, 0], [8.0, 0.5, 0.1]], cell=[20.0, 21.0, 22.0], pbc=True)
    assert np.isfinite(calculator.get_potential_energy(box))
    assert "stress" not in calculator.results
    step, energies = 1e-3, []
    for shift in (-2, -1, 1, 2):
        moved = box.copy()
        moved.positions[1, 0] += shift * step
        energies.append(LesMatGLCalculator(model).get_potential_energy(moved))
    slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
    assert calculator.get_forces(box)[1, 0] == pytest.approx(-slope, rel=1e-5, abs=1e-9)
    with pytest.raises(HostError, match="no two atoms within the model's cutoff"):
        model(*batch_of([waters(), box]))


def test_an_isolated_open_atom_is_evaluated(model):
    calculator = LesMatGLCalculator(model)
    atom = Atoms("O", [[0.1, 0.2, 0.3]])
    assert np.isfinite(calculator.get_potential_energy(atom))
    assert np.abs(calculator.get_forces(atom)).max() < 1e-12  # rounding


def test_ions_without_neighbours_are_told_apart_by_their_element(model):
    """TensorNet's own features are sums over edges: those of a lone atom are the same for every element."""
    calculator = LesMatGLCalculator(model)
    box = {"cell": [18.0] * 3, "pbc": True}  # an open atom would be neutral
    hydrogen, oxygen = (calculator.get_property("latent_charges", Atoms(symbol, **box))[0] for symbol in "HO")
    assert abs(hydrogen - oxygen) > 1e-3
    far = calculator.get_property("latent_charges", Atoms("HO", [[0, 0, 0], [9.0, 0, 0]], **box))
    np.testing.assert_allclose(far, [hydrogen, oxygen], rtol=0.2)  # and what they induce in each other


def test_layouts_are_those_of_the_features():
    tensornet = feature_layout(tiny_host("TensorNet")).layers
    assert [(layer.scalars, layer.vectors, layer.tensors) for layer in tensornet] == [(18, 6, 6)]
    m3gnet = feature_layout(tiny_model("M3GNet")).layers
    assert [(layer.scalars, layer.vectors, layer.tensors) for layer in m3gnet] == [(8, 0, 0)] * 2
    assert 1.0 < feature_layout(tiny_model("M3GNet")).mean_neighbors < 30.0


def test_node_features_are_those_that_the_host_evaluated_last():
    bare = tiny_model()
    graph, lattice = batch_of([waters()], torch.float32)
    with pytest.raises(HostError, match="evaluate it first"):
        node_features(bare, graph)
    caught = []
    bare.register_forward_pre_hook(lambda module, inputs, named: caught.append(named["g"]), with_kwargs=True)
    Potential(bare)(graph, lattice)
    features = node_features(bare, caught[0])
    assert features.layers[0].vectors.shape == (12, 6, 3)
    length = torch.linalg.norm(features.edges.vector, dim=1)
    assert 0.9 < length.min().item() < length.max().item() <= 3.5


def test_what_cannot_be_served_raises_an_error(model):
    with pytest.raises(HostError, match=r"through matgl\.apps\.pes\.Potential"):
        model.model(g=batch_of([waters()])[0])
    with pytest.raises(HostError, match="already"):
        les_plugins.attach(model.model, FULL)
    with pytest.raises(HostError, match="is_intensive=False"):
        les_plugins.attach(TensorNet(element_types=("H",), units=4, nblocks=1, use_warp=False), FULL)
    qet = QET(element_types=("H", "O"), units=4, nblocks=1, use_warp=False, is_intensive=False)
    with pytest.raises(HostError, match="counted twice"):
        les_plugins.attach(Potential(qet), FULL)
    warp = tiny_model("TensorNet")
    warp._use_warp = True
    with pytest.raises(HostError, match="use_warp=False"):
        les_plugins.attach(warp, FULL)
    with pytest.raises(HostError, match="architecture is 'MEGNet'; allowed: TensorNet, M3GNet"):
        LongRangeModel("MEGNet", {}, {})
    with pytest.raises(ConfigError, match="equivariant needs vector"):
        les_plugins.attach(tiny_model("M3GNet"), {"heads": "equivariant"})


def test_canary_matgls_lammps_export_refuses_a_long_range_model_instead_of_dropping_it(model, tmp_path):
    with pytest.raises(NotImplementedError, match="got LongRangeModel"):
        export_lammps_model(model, tmp_path / "model.pt")


def test_wrong_structures_raise_an_error(model):
    calculator = LesMatGLCalculator(model)
    slab, foreign = waters(), waters()
    slab.pbc = (True, True, False)
    foreign.numbers[0] = 6
    with pytest.raises(DataError, match=r"allowed with this host: T T T or F F F\. Slabs"):
        calculator.get_potential_energy(slab)
    with pytest.raises(DataError, match="does not know C; it knows: H, O"):
        calculator.get_potential_energy(foreign)
    short = LesMatGLCalculator(tiny_host())
    with pytest.raises(DataError, match="Slabs"):  # MatGL would take it for a molecule
        short.get_potential_energy(slab)


def test_making_a_calculator_leaves_the_users_potential_and_matgls_property_list_alone(model):
    potential = copy.copy(model)
    potential.calc_stresses = False
    calculator = LesMatGLCalculator(potential)
    assert calculator.get_stress(waters()).shape == (6,)
    assert potential.calc_stresses is False
    assert LesMatGLCalculator.implemented_properties == PESCalculator.implemented_properties


def test_the_calculator_of_an_energy_model_is_that_of_a_potential_with_scale_one(architecture):
    bare = les_plugins.attach(tiny_model(architecture), FULL).double()
    expected = Potential(bare, calc_stresses=True).double()(*batch_of([waters()]))
    calculator = LesMatGLCalculator(bare)
    assert calculator.get_potential_energy(waters()) == pytest.approx(expected[0].item(), rel=1e-13)
    assert calculator.get_property("born_effective_charges", waters()).shape == (12, 3, 3)


def test_an_unsupported_version_of_matgl_raises_an_error(monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.0.3" if name == "matgl" else real(name))
    info = next(info for info in les_plugins.hosting.registry.hosts() if info.name == "matgl")
    assert info.problem is not None
    assert "matgl 4.0.3 is installed, supported is >=4.1,<4.2" in info.problem
    with pytest.raises(HostError, match=r"matgl 4\.0\.3"):
        host("matgl")
