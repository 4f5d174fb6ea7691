"""MACE with a long-range part as TorchScript: the model's numbers in this process, in a fresh one, by the command."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mace", reason="mace-torch is not installed: nox -s tests-mace")

import torch
from compilers_page import LAYER_ALONE, check_column, refusal
from mace.calculators import MACECalculator
from mace_models import amplify, batch_of, tiny_mace, waters
from safetensors.torch import load_file, save_file

import les_plugins
from les_plugins.adapters.mace import torchscript
from les_plugins.adapters.mace.calculator import LesMACECalculator
from les_plugins.adapters.mace.compiled import LesCompiledCalculator
from les_plugins.adapters.mace.model import LongRangeMACE
from les_plugins.adapters.mace.torchscript import ScriptableMACE, compile_model, script
from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics.observables import born_effective_charges
from les_plugins.errors import ConfigError, DataError, GeometryError, HostError
from les_plugins.hosting.registry import host

FULL = {"response": {"charge": True, "dipole": "anisotropic"}, "static_cell": [9.0, 9.0, 9.0], "epsilon_infinity": 1.8}
ISOTROPIC = {"charge": True, "dipole": "isotropic"}
#: Rows of the table of docs/reference/compilers.md that the tests below fill.
FEATURES_TRIED = 21
#: Rounding of sums in another order, float64.
ROUNDING = 1e-10
OUTPUTS = (
    "energy", "node_energy", "forces", "virials", "stress", "short_range_energy", "long_range_energy",
    "latent_charges", "latent_dipoles",
)  # fmt: skip


def long_range_model(config, **options) -> LongRangeMACE:
    quiet = {"net_charge_warning": None, **config}  # random moments carry some
    model = amplify(les_plugins.attach(tiny_mace(**options), quiet))
    return model.requires_grad_(False)


def check(compiled, model, batch, **options):
    expected = model(dict(batch), compute_stress=True)
    found = compiled(dict(batch), compute_stress=True, **options)
    for name in OUTPUTS:
        right = expected[name] if expected[name] is not None else torch.zeros_like(found[name])
        torch.testing.assert_close(found[name], right, rtol=ROUNDING, atol=ROUNDING)
    return found, expected


@pytest.fixture(scope="module")
def column() -> dict[str, str]:
    """What these tests find of each feature, for the table of docs/reference/compilers.md."""
    return {}


@pytest.fixture(scope="module")
def model() -> LongRangeMACE:
    return long_range_model(FULL)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("compiled") / "model.pt"
    return compile_model(model, output, None, "cpu", {"checkpoint": "tiny.les"})


@pytest.fixture(scope="module")
def compiled(path):
    return torch.jit.load(path)


def test_a_file_gives_the_models_numbers_for_other_atoms_cells_and_batches_than_were_traced(model, compiled, column):
    strained = waters(3, seed=4)
    strained.set_cell(strained.cell.array @ np.diag([1.2, 0.9, -1.1]), scale_atoms=True)
    for frames in ([waters(2)], [waters(4, seed=3)], [strained], [waters(1), strained, waters(5, seed=2)]):
        found, _ = check(compiled, model, batch_of(frames))
    assert float(found["long_range_energy"].detach().abs().min()) > 0.1
    column["charge, dipole, quadrupole; induced charge; anisotropic induced dipole"] = "same"
    column["forces and virial"] = column["triclinic and left-handed cells in one batch"] = "same"
    column["other numbers of atoms and structures, other cells"] = "same"


def test_born_charges_are_those_of_the_model(model, compiled, column):
    batch = batch_of([waters(2), waters(3, seed=1)])
    found, _ = check(compiled, model, batch, compute_born_charges=True)
    given = dict(batch)
    latent = model(given, compute_force=False)["latent"]
    born = born_effective_charges(
        given["positions"], given["cell"].view(-1, 3, 3), given["pbc"].view(-1, 3), given["batch"],
        latent.charge, latent.dipole,
    )  # fmt: skip
    assert float(born.abs().max()) > 0.1
    torch.testing.assert_close(found["latent_born_charges"], born, rtol=0, atol=ROUNDING)
    column["Born effective charges"] = "same"


def test_flags_of_all_structures_of_a_batch_may_be_given_once(compiled):
    batch = batch_of([waters(2), waters(3, seed=1)])
    found = compiled({**batch, "pbc": torch.full((3,), True)})["energy"]
    torch.testing.assert_close(found, compiled(dict(batch))["energy"], rtol=1e-12, atol=0)


def test_forces_of_the_file_can_be_differentiated_again(model, compiled, column):
    slopes = []
    for run in (model, compiled):
        given = dict(batch_of([waters(2)]))
        positions = given["positions"].clone().requires_grad_()
        given["positions"] = positions
        forces = run(given, training=True)["forces"]
        slopes.append(torch.autograd.grad(forces.square().sum(), positions)[0])
    torch.testing.assert_close(slopes[1], slopes[0], rtol=0, atol=ROUNDING * float(slopes[0].abs().max()))
    column["second derivatives (training on forces)"] = "same"


@pytest.mark.parametrize(
    ("feature", "config", "options"),
    [
        ("charge", {"multipoles": ["charge"]}, {"num_interactions": 1}),
        (
            "charge, dipole; induced charge; isotropic induced dipole",
            {
                "multipoles": ["charge", "dipole"],
                "response": {"charge": True, "dipole": "isotropic"},
                "zero_init": True,
            },
            {},
        ),
        (
            "charge, dipole; charge over pairs; isotropic induced dipole",
            {"multipoles": ["charge", "dipole"], "response": {"charge": "pairs", "dipole": "isotropic"}},
            {},
        ),
        (
            "",
            {"multipoles": ["charge"], "response": {"charge": "pairs", "pair_softness": "edges", "pair_cutoff": 2.5}},
            {},
        ),
        ("", {"multipoles": ["charge", "dipole"], "heads": "edge", "remove_self_interaction": False}, {}),
        ("", {"multipoles": ["charge"], "total_charge": "conserved"}, {"num_interactions": 1}),
        (
            "",
            {"multipoles": ["charge"], "initial_charges": {"O": -0.6}, "element_charges": "fixed"},
            {"num_interactions": 1},
        ),
    ],
)
def test_other_moments_responses_and_heads_are_compiled_alike(feature, config, options, column):
    model = long_range_model({"static_cell": [8.0, 8.0, 8.0], "dl": 2.0, **config}, **options)
    if model.long_range.coupling is not None:
        model.long_range.coupling.fill_(0.3)
    check(script(model), model, batch_of([waters(2), waters(4, seed=1)]))
    if feature:
        column[feature] = "same"


def test_a_float32_model_keeps_its_dtype():
    model = long_range_model({**FULL, "dl": 2.0}, dtype=torch.float32)
    batch = batch_of([waters(3)], torch.float32)
    expected, found = (run(dict(batch))["forces"] for run in (model, script(model)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))  # float32


def test_a_fresh_process_with_torch_alone_gives_the_same_numbers(model, path, tmp_path):
    batch = batch_of([waters(4, seed=6)])
    tensors = {key: value.contiguous() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, tmp_path / "input")
    script = Path(__file__).parent / "without_hosts.py"
    call = [sys.executable, str(script), str(path), str(tmp_path / "input"), str(tmp_path / "output")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found, expected = load_file(tmp_path / "output"), model(dict(batch), compute_stress=True)
    for name in OUTPUTS:
        torch.testing.assert_close(found[name], expected[name].detach(), rtol=ROUNDING, atol=ROUNDING, msg=name)
    assert found["latent_born_charges"].shape == (12, 3, 3)


def test_maces_own_calculator_runs_the_file(model, path):
    with pytest.warns(UserWarning, match="TorchScript archive"):  # torch.load hands it on
        theirs = MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64")
    ours, atoms = LesMACECalculator(model), waters(3, seed=2)
    for name in ("energy", "forces", "stress", "energies"):
        found, expected = (calc.get_property(name, atoms) for calc in (theirs, ours))
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING, err_msg=name)


def test_our_calculator_of_the_file_has_every_property_of_the_models(model, path):
    compiled, eager = LesCompiledCalculator.from_compiled_model(path), LesMACECalculator(model)
    atoms = waters(3, seed=8)
    for name in (
        "energy", "forces", "stress", "charges", "dipole", "polarizability", "born_effective_charges",
        "long_range_energy", "short_range_energy", "latent_charges", "latent_dipoles", "latent_quadrupoles",
    ):  # fmt: skip
        found, expected = (calc.get_property(name, atoms) for calc in (compiled, eager))
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING, err_msg=name)
    assert compiled.metadata["checkpoint"] == "tiny.les"
    for wrong in (waters(2, pbc=False), waters(2).repeat((1, 1, 2))):
        with pytest.raises(DataError, match="cannot evaluate it: static_cell"):
            compiled.get_potential_energy(wrong)


def test_a_file_of_a_model_with_conserved_charges_makes_its_polarization_with_transfers(tmp_path):
    section = {**FULL, "response": {"dipole": "anisotropic"}, "total_charge": "conserved", "dl": 2.0}
    eager = LesMACECalculator(long_range_model(section))
    path = compile_model(eager.models[0], tmp_path / "model.pt", None, "cpu", {})
    compiled, atoms = LesCompiledCalculator.from_compiled_model(path), waters(3, seed=8)
    atoms.positions[2] += atoms.cell.array[1]  # another image: the branch is that of the positions as given
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3))
    for name in ("charges", "dipole", "born_effective_charges"):
        found, expected = (calc.get_property(name, atoms) for calc in (compiled, eager))
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING, err_msg=name)
    assert compiled.results["polarization_source"] == eager.results["polarization_source"] == "transfers"
    currents = [calc.current(velocities, atoms) for calc in (compiled, eager)]
    np.testing.assert_allclose(*currents, rtol=ROUNDING, atol=ROUNDING)
    assert np.abs(compiled.get_property("born_effective_charges", atoms).sum(0)).max() < ROUNDING


@pytest.mark.parametrize("total_charge", ["conserved", "free"])
def test_a_file_keeps_the_charge_that_a_model_keeps(total_charge, tmp_path):
    elements = {"initial_charges": {"H": 0.3, "O": -0.5}, "element_charges": "fixed"}
    section = {"multipoles": ["charge"], "dl": 2.0, "static_cell": [9.0, 9.0, 9.0], "neutralize": "keep", **elements}
    eager = LesMACECalculator(long_range_model({**section, "total_charge": total_charge}, num_interactions=1))
    path = compile_model(eager.models[0], tmp_path / "model.pt", None, "cpu", {})
    compiled, atoms = LesCompiledCalculator.from_compiled_model(path), waters(3, seed=8)
    for name in ("charges", "dipole", "born_effective_charges"):
        found, expected = (calc.get_property(name, atoms) for calc in (compiled, eager))
        np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING, err_msg=name)
    total = compiled.results["charges"].sum()
    if total_charge == "conserved":
        assert total == pytest.approx(3 * (2 * 0.3 - 0.5), abs=1e-6)  # the section's numbers in float32
        born = compiled.get_property("born_effective_charges", atoms)
        np.testing.assert_allclose(born.sum(0), total * np.eye(3), rtol=0, atol=ROUNDING)
    assert abs(total) > 0.01


def test_a_file_with_other_born_charges_than_the_calculators_is_found_out(monkeypatch):
    monkeypatch.setattr(torchscript, "latent_total_charge", lambda *_: None)
    section = {"multipoles": ["charge"], "dl": 2.0, "static_cell": [8.0, 8.0, 8.0], "neutralize": "keep"}
    model = long_range_model({**section, "initial_charges": {"O": 0.5}}, num_interactions=1)
    with pytest.raises(HostError, match="compiled model's charges deviates"):
        compile_model(model, Path("never"), None, "cpu", {})


def test_what_the_grid_does_not_cover_is_refused_by_the_compiled_code_itself(compiled, column):
    opened, slab = waters(2, pbc=False), waters(2)
    slab.pbc = [True, True, False]
    for feature, frames in {
        "a cell beyond static_cell": [waters(2).repeat((1, 1, 2))],
        "open structure": [opened],
        "open and periodic in one batch": [waters(2), opened],
        "slab": [slab],
    }.items():
        with pytest.raises(torch.jit.Error, match=r"static_cell = \[9.0, 9.0, 9.0\]") as caught:
            compiled(batch_of(frames))
        column[feature] = refusal(caught.value)
    with pytest.raises(torch.jit.Error, match="energy, forces, virials, stress and Born charges"):
        compiled(batch_of([waters(1)]), compute_edge_forces=True)


def test_what_cannot_be_compiled_raises_an_error(tmp_path, column):
    output = tmp_path / "model.pt"
    with pytest.raises(ConfigError, match="set static_cell to the longest lattice vectors") as caught:
        compile_model(long_range_model({}), output, None, "cpu", {})
    column["without static_cell"] = refusal(caught.value)
    with pytest.raises(HostError, match="no long-range part"):
        compile_model(tiny_mace(), output, (9.0, 9.0, 9.0), "cpu", {})
    assert not output.exists()


SMALL = {"multipoles": ["charge"], "dl": 2.0, "static_cell": [8.0, 8.0, 8.0]}


@pytest.mark.parametrize(
    ("feature", "config"),
    [
        ("neutralize: shift", {"neutralize": "shift"}),
        ("method: mesh (compiled: direct)", {"method": "mesh", "mesh_tolerance": 1e-2}),
    ],
)
def test_shifted_charges_and_the_direct_sum_for_a_model_that_uses_the_mesh(feature, config, tmp_path, column):
    model = long_range_model({**SMALL, **config}, num_interactions=1)
    compiled = torch.jit.load(compile_model(model, tmp_path / "model.pt", None, "cpu", {}))
    direct = copy.deepcopy(model)
    direct.long_range.electrostatics.change_settings(method="direct")
    batch = batch_of([waters(2), waters(4, seed=1)])
    _, expected = check(compiled, direct, batch)
    found = model(dict(batch))["energy"]
    assert torch.equal(found, expected["energy"]) == (config.get("method") != "mesh")
    column[feature] = "same"


@pytest.mark.parametrize(
    ("feature", "config"),
    [
        ("neutralize: refuse", {"neutralize": "refuse"}),
        ("response: self_consistent", {"response": {"dipole": "isotropic", "solve": "self_consistent"}}),
    ],
)
def test_what_depends_on_values_raises_an_error(feature, config, tmp_path, column):
    with pytest.raises((ConfigError, GeometryError), match="traced") as caught:
        compile_model(long_range_model({**SMALL, **config}, num_interactions=1), tmp_path / "model.pt", None, "cpu", {})
    column[feature] = refusal(caught.value)


def test_models_have_no_setting_or_input_for_what_the_layer_alone_has(column):
    names = {"channels", "external_field", "process_group"}
    assert not names & ({*LongRangeConfig.model_fields} | {*inspect.signature(ScriptableMACE.forward).parameters})
    column.update(LAYER_ALONE)


def test_heads_that_depend_on_values_are_found_out(model, monkeypatch):
    heads = model.long_range.heads
    plain = heads.forward

    def forward(features):
        latent = plain(features)
        charge = latent.multipoles.charge * (1.0 + 0.01 * int(latent.multipoles.charge.shape[0]))
        return latent._replace(multipoles=latent.multipoles._replace(charge=charge))

    monkeypatch.setattr(heads, "forward", forward)
    with pytest.raises(HostError, match=r"deviates from the model's by .* cannot be traced"):
        compile_model(model, Path("never"), None, "cpu", {})


def test_the_command_writes_a_file_for_another_cell_and_names_what_it_is(model, tmp_path, les_plugins_command):
    les_plugins.save(model, tmp_path / "tiny.les", "mace")
    output = tmp_path / "large.pt"
    done = les_plugins_command("compile", tmp_path / "tiny.les", output, "--static-cell", 9, 9, 15)
    assert (done.code, "mace, torchscript" in done.errors) == (0, True), done.errors
    calculator = LesCompiledCalculator.from_compiled_model(output)
    atoms = waters(2).repeat((1, 1, 2))
    free = long_range_model({**FULL, "static_cell": None})
    assert calculator.get_potential_energy(atoms) == pytest.approx(
        LesMACECalculator(free).get_potential_energy(atoms), abs=ROUNDING
    )
    assert len(calculator.metadata["weights_sha256"]) == 64
    assert les_plugins_command("compile", tmp_path / "tiny.les", tmp_path / "no" / "such.pt").code == 1


def test_a_file_that_is_none_of_ours_raises_an_error(tmp_path):
    (tmp_path / "text.pt").write_text("no archive")
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "other.pt"))
    for name in ("text.pt", "other.pt"):
        with pytest.raises(HostError, match="not written by les-plugins compile"):
            LesCompiledCalculator.from_compiled_model(tmp_path / name)


def test_what_models_can_be_compiled_to_is_said():
    assert host("mace").compile_targets == ("torchscript", "metatomic")


def test_docs_compilers_says_what_was_found(column):
    if len(column) < FEATURES_TRIED:
        pytest.skip("the other tests of this file were not all run, or failed")
    check_column("MACE, TorchScript", column)
