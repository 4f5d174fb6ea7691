"""The SevenNet adapter: what is SevenNet's own, beyond the contract (test_sevennet_contract.py)."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from sevenn import model_build
from sevenn.train import dataload

import les_plugins
from les_plugins.adapters.sevennet.calculator import LesSevenNetCalculator, _set_to
from les_plugins.adapters.sevennet.contract import batch_of, model_config, tiny_model
from les_plugins.adapters.sevennet.graphs import PBC, graph_of
from les_plugins.adapters.sevennet.model import attach_long_range, build_model, feature_layout
from les_plugins.config import LongRangeConfig
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.hosting import registry as plugins
from les_plugins.hosting.registry import host
from les_plugins.model.outputs import long_range_part
from les_plugins.testing import waters
from les_plugins.testing.symmetry import turn

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}


def long_range_model(config: Any = FULL, dtype: torch.dtype = torch.float64, **changes: Any) -> torch.nn.Module:
    """Heads twenty times a fresh start's, so that the long-range part is seen in every test."""
    model = les_plugins.attach(tiny_model(dtype=dtype, **changes), config)
    with torch.no_grad():
        for name, parameter in long_range_part(model).named_parameters():
            if name.endswith(("mix.weight", "tensors.weight", "out.weight")) or ".linear." in name:
                parameter.mul_(20.0)
    return model


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return long_range_model()


def energy(model: torch.nn.Module, atoms: Atoms) -> float:
    return model(batch_of([atoms]))["inferred_total_energy"].item()


class TestModel:
    def test_the_config_key_and_attach_give_models_of_the_same_tensors_and_the_hosts_own_weights(self):
        torch.manual_seed(0)
        built = build_model(model_config(long_range=FULL), torch.float64).state_dict()
        bare = tiny_model().state_dict()
        attached = long_range_model().state_dict()
        assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in attached.items()}
        assert bare.keys() < built.keys()
        assert all(torch.equal(built[name], value) for name, value in bare.items())

    def test_a_model_of_sevennets_own_builder_takes_a_long_range_part_and_is_itself_unchanged(self):
        torch.manual_seed(0)
        bare = model_build.build_E3_equivariant_model(model_config())
        names = [name for name, _ in bare.named_children()]
        before = bare.eval()(batch_of([waters()], torch.float32))["inferred_force"]
        model = les_plugins.attach(bare, {**FULL, "zero_init": True})
        assert [name for name, _ in bare.named_children()] == names
        after = model(batch_of([waters()], torch.float32))["inferred_force"]
        assert torch.equal(before, after)
        with pytest.raises(HostError, match="was built from is not known: build it with"):
            les_plugins.save(model, "nowhere.les", "sevennet")

    def test_feature_layouts_name_the_channels_that_the_heads_read(self):
        for parity in (True, False):  # all of l = 1 is called 1e without parity
            layers = feature_layout(tiny_model(is_parity=parity, lmax=2)).layers
            assert [(layer.scalars, layer.vectors, layer.tensors) for layer in layers] == [(4, 4, 4), (4, 0, 0)]
        layout = feature_layout(tiny_model(num_convolution_layer=1))
        assert not layout.has_vectors
        assert (layout.cutoff, layout.mean_neighbors) == (3.5, 4.0)

    def test_a_one_layer_model_gets_edge_heads_and_refuses_equivariant_ones(self):
        model = long_range_model(FULL, num_convolution_layer=1)
        assert model(batch_of([waters()]))["latent_dipoles"].abs().max().item() > 0
        with pytest.raises(ConfigError, match="vector"):
            les_plugins.attach(tiny_model(num_convolution_layer=1), {"heads": "equivariant"})

    @pytest.mark.parametrize("parity", [True, False])
    def test_vectors_and_tensors_follow_a_rotation_and_with_parity_an_inversion(self, parity):
        """Without parity SevenNet's own energy changes under inversion, and so may the long-range part's."""
        settings = {"is_parity": parity, "lmax": 2, "num_convolution_layer": 3}
        model, bare = long_range_model(FULL, **settings), tiny_model(**settings)
        atoms = waters(pbc=False, edge=5.0)
        before = model(batch_of([atoms]))
        kept = {}
        for improper in (False, True):
            turned = atoms.copy()
            turned.positions = atoms.positions @ turn(improper).T
            matrix, after = torch.tensor(turn(improper)), model(batch_of([turned]))
            dipoles = before["latent_dipoles"] @ matrix.T
            quadrupoles = matrix @ before["latent_quadrupoles"] @ matrix.T
            kept[improper] = torch.allclose(after["latent_dipoles"], dipoles, rtol=0, atol=1e-11) and torch.allclose(
                after["latent_quadrupoles"], quadrupoles, rtol=0, atol=1e-11
            )
            if not improper:
                torch.testing.assert_close(after["inferred_total_energy"], before["inferred_total_energy"])
            else:
                assert (abs(energy(bare, turned) - energy(bare, atoms)) < 1e-11) is parity
        assert kept == {False: True, True: parity}
        assert before["latent_quadrupoles"].abs().max().item() > 1e-4

    def test_charges_beyond_the_cutoff_attract_and_one_atom_feels_nothing(self):
        calculator = LesSevenNetCalculator(long_range_model({"multipoles": ["charge"]}))
        apart = Atoms("OH", [[0.0, 0.0, 0.0], [0.0, 0.0, 6.0]])
        forces, step = calculator.get_property("forces", apart), 1e-3
        assert calculator.results["num_edges"] == 0
        energies = []
        for shift in (-step, step):
            moved = apart.copy()
            moved.positions[1, 2] += shift
            energies.append(calculator.get_property("energy", moved))
        # step² times the third derivative, below 1e-6 of a force of order 1e-3 eV/Å
        assert forces[1, 2] == pytest.approx(-(energies[1] - energies[0]) / (2 * step), rel=1e-5)
        assert abs(forces[1, 2]) > 1e-6
        assert np.abs(calculator.get_property("forces", Atoms("O", [[0.0, 0.0, 0.0]]))).max() == 0.0

    def test_a_finer_dtype_of_sevennets_model_needs_no_patch_of_the_user(self):
        model = long_range_model(dtype=torch.float32).double()
        assert model(batch_of([waters()]))["inferred_force"].dtype == torch.float64


class TestRefusals:
    def test_another_version_of_sevennet_raises(self, monkeypatch):
        monkeypatch.setattr(plugins.importlib.metadata, "version", lambda name: "0.12.1")
        with pytest.raises(HostError, match=r"sevenn 0.12.1 is installed, supported is >=0.13,<0.14: pip install"):
            host("sevennet")

    @pytest.mark.parametrize("missing", [PBC, "cell_lattice_vectors"])
    def test_graphs_that_cannot_tell_the_boundaries_raise(self, model, missing):
        data = batch_of([waters()])
        del data[missing]
        with pytest.raises(HostError, match="no cell and no pbc flags"):
            model(data)

    def test_lammps_mliap_raises(self, model):
        data = batch_of([waters()])
        data["use_mliap"] = torch.tensor(True)
        with pytest.raises(HostError, match="edge vectors only"):
            model(data)

    def test_torchscript_raises(self, model):
        from e3nn.util.jit import script

        with pytest.raises(HostError, match="TorchScript"):
            script(copy.deepcopy(model))

    def test_parts_of_a_parallel_model_are_refused(self):
        for part in model_build.build_E3_equivariant_model(model_config(), parallel=True):
            with pytest.raises(HostError, match="parallel"):
                attach_long_range(part, LongRangeConfig())

    @pytest.mark.parametrize(
        "option", [{"use_flash_tp": True}, {"use_oeq": True}, {"cuequivariance_config": {"use": True}}]
    )
    @pytest.mark.filterwarnings("ignore:.*is requested, but the package is not installed:UserWarning")
    def test_accelerators_raise(self, option):
        with pytest.raises(HostError, match="has not been tested with a long-range part"):
            build_model(model_config(long_range=LongRangeConfig().to_dict(), **option))

    def test_a_batch_in_a_model_set_to_single_structures_raises(self, model):
        model.set_is_batch_data(False)
        try:
            with pytest.raises(HostError, match="set_is_batch_data"):
                model(batch_of([waters(), waters(2)]))
        finally:
            model.set_is_batch_data(True)

    def test_a_second_attachment_and_foreign_modules_raise(self, model):
        with pytest.raises(HostError, match="has a long-range part already"):
            les_plugins.attach(model, FULL)
        with pytest.raises(HostError, match="AtomGraphSequential"):
            attach_long_range(model.edge_embedding, LongRangeConfig())

    def test_layers_without_scalars_raise(self):
        manual = ["4x0e", "4x0o+4x1o", "4x0e"]
        with pytest.raises(ConfigError, match="heads need 0e in every layer"):
            les_plugins.attach(tiny_model(irreps_manual=manual), FULL)


class TestCalculator:
    def test_the_model_is_left_as_it_was_given(self, model):
        LesSevenNetCalculator(model).get_property("energy", waters())
        assert model.is_batch_data
        frames = [waters(), waters(2, pbc=False)]
        together = model(batch_of(frames))["inferred_total_energy"]
        single = [LesSevenNetCalculator(model).get_property("energy", atoms) for atoms in frames]
        torch.testing.assert_close(together, torch.tensor(single, dtype=torch.float64))

    @pytest.mark.parametrize("pbc", [True, False])
    def test_the_neighbour_graph_is_built_once_a_step(self, model, monkeypatch, pbc):
        built, original = [], dataload._graph_build_f

        def build(*given: Any) -> Any:
            built.append(given)
            return original(*given)

        monkeypatch.setattr(dataload, "_graph_build_f", build)
        atoms, calculator = waters(pbc=pbc), LesSevenNetCalculator(model)
        calculator.always = ("born_effective_charges",)
        atoms.calc = calculator
        for step in (1, 2):
            atoms.rattle(0.01, seed=step)
            atoms.get_potential_energy()
            atoms.get_forces()
            calculator.get_property("born_effective_charges", atoms)
            calculator.get_property("charges", atoms)
            assert len(built) == step

    def test_a_model_in_use_stops_other_threads_from_using_it_and_no_other_model(self, model):
        done = []

        def evaluate(calculator: LesSevenNetCalculator, name: str) -> None:
            calculator.get_property("energy", waters(1))
            done.append(name)

        free = LesSevenNetCalculator(tiny_model())
        threads = [
            threading.Thread(target=evaluate, args=(calculator, name))
            for calculator, name in ((LesSevenNetCalculator(model), "same"), (free, "other"))
        ]
        with _set_to(model, batches=True):
            for thread in threads:
                thread.start()
            threads[1].join(120)
            assert done == ["other"]
        threads[0].join(120)
        assert done == ["other", "same"]
        assert model.is_batch_data

    def test_an_open_structure_has_no_stress_and_its_cell_changes_nothing(self, model):
        calculator, bare = LesSevenNetCalculator(model), waters(pbc=False)
        boxed = bare.copy()
        boxed.set_cell([30.0, 30.0, 30.0])
        assert not bare.cell.any()
        assert calculator.get_property("energy", bare) == calculator.get_property("energy", boxed)
        with pytest.raises(PropertyNotImplementedError):
            calculator.get_property("stress", bare)

    def test_periodic_flags_with_a_zero_cell_raise(self, model):
        atoms = waters(pbc=False)
        atoms.pbc = True
        with pytest.raises(DataError, match="pbc is T T T but the cell"):
            LesSevenNetCalculator(model).get_property("energy", atoms)

    def test_unwrapped_positions_far_away_lose_nothing_in_a_float32_model(self):
        """Positions reach the sum in float64, as do the edge vectors before SevenNet rounds them."""
        calculator = LesSevenNetCalculator(long_range_model(dtype=torch.float32))
        atoms = waters()
        far = atoms.copy()
        far.positions += 1000 * atoms.cell.array[0]
        near, away = (calculator.get_property("forces", frame) for frame in (atoms, far))
        np.testing.assert_allclose(near, away, rtol=0, atol=1e-5)  # float32 edge vectors in another rounding

    def test_a_short_range_model_says_that_it_has_no_electrostatics(self):
        calculator = LesSevenNetCalculator(tiny_model())
        assert calculator.get_property("long_range_energy", waters()) == 0.0
        with pytest.raises(PropertyNotImplementedError, match="no long-range part"):
            calculator.get_property("born_effective_charges", waters())

    def test_a_foreign_element_is_refused_when_the_calculator_is_set(self, model):
        atoms = waters()
        atoms.numbers[0] = 6
        with pytest.raises(DataError, match="does not know C; it knows: H, O"):
            atoms.calc = LesSevenNetCalculator(model)

    def test_wrong_options_raise(self, model):
        with pytest.raises(HostError, match="compute_atomic_virial"):
            LesSevenNetCalculator(model, compute_atomic_virial=True)
        with pytest.raises(HostError, match="AtomGraphSequential, not a Linear"):
            LesSevenNetCalculator(torch.nn.Linear(2, 2))

    def test_making_a_calculator_leaves_sevennets_property_list_alone(self, model):
        LesSevenNetCalculator(model)
        assert "charges" not in LesSevenNetCalculator.implemented_properties


def test_a_model_of_two_fidelities_needs_one_and_carries_the_same_heads(tmp_path):
    fidelities = {"use_modality": True, "_modal_map": {"PBE": 0, "SCAN": 1}, "_number_of_modalities": 2}
    wise = {"use_modal_wise_shift": True, "use_modal_wise_scale": False, "use_modal_node_embedding": True}
    shift = {"PBE": -1.0, "SCAN": -2.0}
    model = long_range_model(FULL, **fidelities, **wise, shift=shift, scale=[1.0, 1.0])
    with pytest.raises(ConfigError, match="has the fidelities PBE, SCAN"):
        LesSevenNetCalculator(model)
    found = [LesSevenNetCalculator(model, modal=name).get_property("energy", waters(2)) for name in ("PBE", "SCAN")]
    assert found[0] != found[1]
    again, _ = les_plugins.api.load_model(les_plugins.save(model, tmp_path / "two.les", "sevennet"))
    assert LesSevenNetCalculator(again, modal="SCAN").get_property("energy", waters(2)) == found[1]


def test_graphs_hold_the_cell_of_ase_and_not_sevennets_invented_one():
    graph = graph_of(waters(pbc=False), 3.5, torch.float32)
    assert not graph["cell_lattice_vectors"].any()
    assert graph[PBC].tolist() == [[0, 0, 0]]
    assert (graph["edge_vec"].dtype, graph["pos"].dtype) == (torch.float32, torch.float64)
