"""Heads: equivariant, non-negative where physics says so, near zero at the start, and no parameter left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from few_atoms import CUTOFF, edges_of, positions
from torch import Tensor

from les_plugins import LongRangeConfig
from les_plugins.electrostatics.multipoles import cartesian_to_spherical, spherical_to_cartesian
from les_plugins.errors import ConfigError
from les_plugins.hosting.build import build_long_range
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.heads import EdgeHead, Heads, LatentVariables, TensorHead, VectorHead, radial_functions
from les_plugins.model.long_range import LongRange

VECTORS = FeatureLayout((LayerLayout(5, 4), LayerLayout(6)))
TENSORS = FeatureLayout((LayerLayout(5, 4, 3), LayerLayout(6, 2, 2), LayerLayout(6)))
INVARIANT = FeatureLayout((LayerLayout(5), LayerLayout(6)), cutoff=CUTOFF, mean_neighbors=5.0)
LAYOUTS = pytest.mark.parametrize("layout", [VECTORS, TENSORS, INVARIANT], ids=["1o", "1o+2e", "edges"])
RESPONSES = pytest.mark.parametrize("response", ["isotropic", "anisotropic"])

ROTATION = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
#: A proper rotation, an improper one, and inversion.
OPERATIONS = pytest.mark.parametrize(
    "operation",
    [ROTATION * torch.det(ROTATION), -ROTATION * torch.det(ROTATION), -torch.eye(3, dtype=torch.float64)],
    ids=["rotation", "rotoinversion", "inversion"],
)


def config(response: str = "anisotropic", **changes: Any) -> LongRangeConfig:
    return LongRangeConfig.parse({"response": {"charge": True, "dipole": response}, **changes})


def features(layout: FeatureLayout, places: Tensor) -> NodeFeatures:
    """Random features of unit size."""
    n_atoms = len(places)
    layers = [
        LayerFeatures(
            torch.randn(n_atoms, layer.scalars, dtype=torch.float64),
            torch.randn(n_atoms, layer.vectors, 3, dtype=torch.float64) if layer.vectors else None,
            torch.randn(n_atoms, layer.tensors, 5, dtype=torch.float64) if layer.tensors else None,
        )
        for layer in layout.layers
    ]
    return NodeFeatures(layers, edges_of(places) if layout.cutoff else None)


def charges_of_elements(**changes: Any) -> Heads:
    """Of one seed: the networks are the same."""
    torch.manual_seed(0)
    layout = FeatureLayout((LayerLayout(5),), elements=("H", "O"))
    return Heads(layout, LongRangeConfig.parse({"multipoles": ["charge"], **changes}))


def test_charges_start_from_those_of_the_elements_and_are_trained():
    heads, without = charges_of_elements(initial_charges={"O": -0.8}), charges_of_elements()
    features = NodeFeatures([LayerFeatures(torch.randn(3, 5))], species=torch.tensor([1, 0, 1]))
    charge = heads(features).multipoles.charge
    expected = without(features).multipoles.charge + torch.tensor([-0.8, 0.0, -0.8])
    torch.testing.assert_close(charge, expected)
    charge.square().sum().backward()
    assert heads.element_charge is not None
    assert heads.element_charge.grad is not None
    assert bool((heads.element_charge.grad != 0.0).all())


def test_fixed_charges_of_elements_are_those_given_and_are_not_trained():
    trained = charges_of_elements(initial_charges={"O": -0.8})
    fixed = charges_of_elements(initial_charges={"O": -0.8}, element_charges="fixed")
    features = NodeFeatures([LayerFeatures(torch.randn(3, 5))], species=torch.tensor([1, 0, 1]))
    torch.testing.assert_close(fixed(features).multipoles.charge, trained(features).multipoles.charge)
    assert {name for name, _ in trained.named_parameters()} - {name for name, _ in fixed.named_parameters()} == {
        "element_charge"
    }
    assert fixed.state_dict().keys() == trained.state_dict().keys()


def test_a_tensor_of_vectors_vanishes_at_a_centre_of_inversion_and_one_of_edges_does_not():
    """Why `heads: edge` is for crystals: two neighbours on opposite sides, and no vector in between."""
    layout = VECTORS._replace(cutoff=CUTOFF, mean_neighbors=5.0)
    places = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0], [-1.5, 0.0, 0.0]], dtype=torch.float64)
    scalars = torch.ones(3, 5, dtype=torch.float64)
    vectors = torch.zeros(3, 4, 3, dtype=torch.float64)
    given = NodeFeatures(
        [LayerFeatures(scalars, vectors), LayerFeatures(torch.ones(3, 6, dtype=torch.float64))], edges_of(places)
    )
    found = {kind: Heads(layout, config(heads=kind)).double()(given) for kind in ("equivariant", "edge")}
    for kind, latent in found.items():
        quadrupole = latent.multipoles.quadrupole
        assert quadrupole is not None
        assert latent.polarizability is not None
        anisotropy = latent.polarizability[0, 0, 0] - latent.polarizability[0, 1, 1]
        zero = kind == "equivariant"
        assert (quadrupole[0].abs().max().item() == 0.0) == zero
        assert (anisotropy.abs().item() < 1e-16) == zero


@pytest.mark.parametrize(
    ("elements", "message"),
    [(("H", "O"), "initial_charges has Pb; allowed: the model's elements, H, O"), (None, "does not provide")],
)
def test_initial_charges_of_elements_that_are_not_there_are_refused(elements, message):
    section = LongRangeConfig.parse({"initial_charges": {"Pb": 0.9}, "multipoles": ["charge"]})
    with pytest.raises(ConfigError, match=message):
        Heads(FeatureLayout((LayerLayout(5),), elements=elements), section)


def transform(given: NodeFeatures, operation: Tensor, rank_two: Tensor) -> NodeFeatures:
    """Features of the structure that `operation` moves, 2e components by their own 5 × 5 matrix."""
    layers = [
        LayerFeatures(
            layer.scalars,
            None if layer.vectors is None else layer.vectors @ operation.T,
            None if layer.tensors is None else layer.tensors @ rank_two.T,
        )
        for layer in given.layers
    ]
    moved = given.edges and given.edges._replace(vector=given.edges.vector @ operation.T)
    return NodeFeatures(layers, moved)


def cartesian_rank_two(operation: Tensor) -> Tensor:
    """The 5 × 5 matrix of an operation by our own change of basis."""
    unit = spherical_to_cartesian(torch.eye(5, dtype=torch.float64))
    return cartesian_to_spherical(operation @ unit @ operation.T).T


@pytest.fixture(autouse=True)
def _float64() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def moved_like_tensors(before: LatentVariables, after: LatentVariables, operation: Tensor) -> None:
    """Compare to rounding: nothing but sums and products of order one is done."""
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(after.multipoles.charge, before.multipoles.charge, **close)
    torch.testing.assert_close(after.softness, before.softness, **close)
    assert before.multipoles.dipole is not None
    assert before.multipoles.quadrupole is not None
    assert before.polarizability is not None
    torch.testing.assert_close(after.multipoles.dipole, before.multipoles.dipole @ operation.T, **close)
    for old, new in (
        (before.multipoles.quadrupole, after.multipoles.quadrupole),
        (before.polarizability, after.polarizability),
    ):
        torch.testing.assert_close(new, operation @ old @ operation.T, **close)


@LAYOUTS
@OPERATIONS
def test_dipoles_and_tensors_turn_with_the_features(layout: FeatureLayout, operation: Tensor) -> None:
    heads, given = Heads(layout, config()), features(layout, positions())
    moved = transform(given, operation, cartesian_rank_two(operation))
    moved_like_tensors(heads(given), heads(moved), operation)


@OPERATIONS
def test_dipoles_and_tensors_turn_with_features_that_wigner_matrices_of_e3nn_turn(operation: Tensor, o3: Any) -> None:
    heads, given = Heads(TENSORS, config()), features(TENSORS, positions())
    moved = transform(given, operation, o3.Irreps("2e").D_from_matrix(operation))
    torch.testing.assert_close(o3.Irreps("1o").D_from_matrix(operation), operation, rtol=0.0, atol=1e-10)
    moved_like_tensors(heads(given), heads(moved), operation)


def test_spherical_components_are_those_of_e3nn_spherical_harmonics(o3: Any) -> None:
    direction = torch.nn.functional.normalize(torch.randn(7, 3), dim=1)
    harmonics = o3.spherical_harmonics("2e", direction, normalize=True, normalization="norm")
    outer = direction[:, :, None] * direction[:, None, :] - torch.eye(3) / 3.0
    # "norm" makes each harmonic a unit vector; the traceless outer product of a unit vector has norm sqrt(2/3)
    torch.testing.assert_close(spherical_to_cartesian(harmonics), outer * 1.5**0.5, rtol=1e-10, atol=1e-12)


def test_cartesian_and_spherical_components_are_one_to_one() -> None:
    components = torch.randn(4, 3, 5)
    torch.testing.assert_close(
        cartesian_to_spherical(spherical_to_cartesian(components)), components, rtol=1e-12, atol=1e-12
    )


@LAYOUTS
def test_quadrupoles_are_symmetric_and_traceless(layout: FeatureLayout) -> None:
    quadrupole = Heads(layout, config())(features(layout, positions())).multipoles.quadrupole
    assert quadrupole.abs().max() > 1e-3
    torch.testing.assert_close(quadrupole, quadrupole.transpose(1, 2), rtol=0.0, atol=1e-14)
    trace = quadrupole.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace, torch.zeros_like(trace), rtol=0.0, atol=1e-14)


@LAYOUTS
@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_softness_is_positive_and_polarizability_positive_semidefinite(layout: FeatureLayout, size: float) -> None:
    given = features(layout, positions())
    layers = [LayerFeatures(*(None if x is None else size * x for x in layer)) for layer in given.layers]
    for response in ("isotropic", "anisotropic"):
        latent = Heads(layout, config(response))(NodeFeatures(layers, given.edges))
        assert (latent.softness >= 0.0).all()
        polarizability = latent.polarizability
        if response == "anisotropic":
            torch.testing.assert_close(polarizability, polarizability.transpose(1, 2), rtol=1e-12, atol=1e-12)
            eigenvalues = torch.linalg.eigvalsh(polarizability)
            assert (eigenvalues >= -1e-12 * eigenvalues.abs().max()).all()
        else:
            assert (polarizability >= 0.0).all()


@LAYOUTS
@RESPONSES
@pytest.mark.parametrize("zero_init", [False, True])
def test_every_parameter_gets_a_gradient_from_the_energy(layout: FeatureLayout, response: str, zero_init: bool) -> None:
    # the structure is open: a constant in the charges has no effect where their mean is taken off
    part = build_long_range(layout, config(response, zero_init=zero_init, neutralize="keep"))
    if part.coupling is not None:
        torch.nn.init.ones_(part.coupling)  # at zero it alone has one, see below
    evaluate(part, layout).energy.sum().backward()
    without = [name for name, parameter in part.named_parameters() if parameter.grad is None]
    zero = [name for name, parameter in part.named_parameters() if not parameter.grad.any()]
    assert (without, zero) == ([], [])


@LAYOUTS
def test_forces_reach_every_parameter(layout: FeatureLayout) -> None:
    part, places = build_long_range(layout, config()), positions().requires_grad_(True)
    result = part(features(layout, places), places, *open_boundary())
    (forces,) = torch.autograd.grad(-result.energy.sum(), places, create_graph=True)
    forces.square().sum().backward()
    assert [name for name, parameter in part.named_parameters() if parameter.grad is None] == []


@LAYOUTS
def test_new_heads_start_near_zero(layout: FeatureLayout) -> None:
    """Natural sizes of theory 1: charge 0.1 e, softness and polarizability 0.01, times a number of order one."""
    found: dict[str, list[Tensor]] = {
        "charge": [],
        "dipole": [],
        "quadrupole": [],
        "softness": [],
        "polarizability": [],
    }
    for seed in range(10):
        torch.manual_seed(seed)
        latent = Heads(layout, config("isotropic"))(features(layout, positions()))
        for name, moment in zip(("charge", "dipole", "quadrupole"), latent.multipoles, strict=True):
            found[name].append(moment)
        found["softness"].append(latent.softness)
        found["polarizability"].append(latent.polarizability)
    sizes = {name: torch.stack(values).detach().square().mean().sqrt().item() for name, values in found.items()}
    assert all(0.001 < sizes[name] < 0.3 for name in ("charge", "dipole", "quadrupole")), sizes
    assert all(0.001 < sizes[name] < 0.03 for name in ("softness", "polarizability")), sizes


def test_zero_init_gives_no_energy_and_no_force_at_the_start() -> None:
    part, places = build_long_range(VECTORS, config(zero_init=True)), positions().requires_grad_(True)
    result = part(features(VECTORS, places), places, *open_boundary())
    (gradient,) = torch.autograd.grad(result.energy.sum(), places)
    assert torch.equal(result.energy, torch.zeros(1))
    assert torch.equal(result.atomic_energy, torch.zeros(5))
    assert torch.equal(gradient, torch.zeros(5, 3))
    assert torch.equal(result.charge, torch.zeros(5))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_zero_init_grows_whichever_way_the_target_pulls_it(sign: float) -> None:
    """A start that anticorrelates with the target must not freeze: the heads change, then the energy fits."""
    # open: a constant in the charges has an effect only where their mean is kept
    settings = {"multipoles": ["charge", "dipole"], "neutralize": "keep"}
    part = build_long_range(VECTORS, config(zero_init=True, **settings))
    places = positions()
    given, boundary = features(VECTORS, places), open_boundary()
    twin = build_long_range(VECTORS, config(**settings))
    twin.heads.load_state_dict(part.heads.state_dict())
    target = 2.0 * sign * twin(given, places, *boundary).energy.detach()

    assert part.coupling is not None
    first = torch.autograd.grad((part(given, places, *boundary).energy - target).square().sum(), part.coupling)[0]
    assert first != 0.0
    optimizer = torch.optim.Adam(part.parameters(), lr=0.02)
    start = target.square().sum()
    for _ in range(150):
        optimizer.zero_grad()
        loss = (part(given, places, *boundary).energy - target).square().sum()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
    assert loss < 0.05 * start
    assert part.coupling.abs() > 0.01


def test_zero_init_scales_the_moments_so_that_they_give_its_energy() -> None:
    part, places = build_long_range(VECTORS, config("isotropic", zero_init=True)), positions()
    assert part.coupling is not None
    torch.nn.init.constant_(part.coupling, -0.3)
    result = part(features(VECTORS, places), places, *open_boundary())
    again = part.electrostatics(places, *open_boundary(), result.permanent, result.softness, result.polarizability)
    for name in ("energy", "atomic_energy", "potential", "field", "charge", "dipole"):
        torch.testing.assert_close(getattr(again, name), getattr(result, name), rtol=1e-12, atol=1e-14)


def test_zero_init_in_an_external_field_has_the_moments_that_its_derivative_says() -> None:
    settings, places = config("isotropic", zero_init=True, multipoles=["charge", "dipole"]), positions()
    part = build_long_range(VECTORS, settings)
    assert part.coupling is not None
    torch.nn.init.constant_(part.coupling, 0.3)
    given, field = features(VECTORS, places), torch.zeros(3, requires_grad=True)
    result = part(given, places, *open_boundary(), external_field=field)
    (slope,) = torch.autograd.grad(result.energy.sum(), field)
    without = part(given, places, *open_boundary())
    torch.testing.assert_close(result.energy, without.energy, rtol=1e-12, atol=1e-14)
    assert without.softness is not None
    centre = (without.softness[:, None] * places).sum(0) / without.softness.sum()
    induced = (without.charge - without.permanent.charge).sum()
    moment = (without.charge[:, None] * places + without.dipole).sum(0) - induced * centre  # theory, section 7
    torch.testing.assert_close(-slope, moment, rtol=1e-10, atol=1e-12)


def test_edge_weights_vanish_at_the_cutoff_with_their_slope() -> None:
    at, below = torch.tensor([[CUTOFF]], requires_grad=True), torch.tensor([[CUTOFF * (1 - 1e-4)]])
    values = radial_functions(at, CUTOFF)
    slopes = torch.autograd.functional.jacobian(lambda x: radial_functions(x, CUTOFF), at).flatten()
    assert values.abs().max() < 1e-12
    assert slopes.abs().max() < 1e-10
    # three vanishing orders: (1e-4)³ × 56 × 8 × sqrt(2) and the sine's own zero make it less than 1e-9
    assert radial_functions(below, CUTOFF).abs().max() < 1e-9
    assert torch.equal(radial_functions(torch.tensor([[CUTOFF + 0.1]]), CUTOFF), torch.zeros(1, 8))


@pytest.mark.parametrize("rank", [1, 2])
def test_an_edge_head_changes_smoothly_when_a_neighbor_crosses_the_cutoff(rank: int) -> None:
    head = EdgeHead(INVARIANT, 8, rank)
    scalars = [LayerFeatures(torch.randn(2, layer.scalars)) for layer in INVARIANT.layers]

    def output(distance: Tensor) -> Tensor:
        vector = distance * torch.tensor([[0.6, 0.0, 0.8]])
        edges = Edges(torch.tensor([0]), torch.tensor([1]), vector)
        return head(NodeFeatures(scalars, edges))

    at = torch.tensor(CUTOFF)
    assert output(torch.tensor(0.7 * CUTOFF)).abs().max() > 1e-4
    assert output(at).abs().max() < 1e-12
    assert torch.autograd.functional.jacobian(output, at).abs().max() < 1e-10


def test_an_edge_head_is_finite_with_its_gradient_where_atoms_coincide() -> None:
    head = EdgeHead(INVARIANT, 8, 2)
    vector = torch.zeros(1, 3, requires_grad=True)
    scalars = [LayerFeatures(torch.randn(2, layer.scalars)) for layer in INVARIANT.layers]
    head(NodeFeatures(scalars, Edges(torch.tensor([0]), torch.tensor([1]), vector))).sum().backward()
    assert torch.isfinite(vector.grad).all()


def test_equivariant_heads_without_vectors_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ConfigError, match=r"heads: equivariant needs vector \(1o\) features.*allowed: heads: edge"):
        Heads(INVARIANT, config(heads="equivariant"))


def test_edge_heads_without_edges_are_refused() -> None:
    layout = FeatureLayout((LayerLayout(5),))
    with pytest.raises(ConfigError, match="needs the host's edges"):
        Heads(layout, config(heads="edge"))
    with pytest.raises(ConfigError, match="needs the host's edges"):
        Heads(layout, config())


def test_a_layer_without_scalars_is_refused() -> None:
    with pytest.raises(ConfigError, match="scalar features in every layer"):
        Heads(FeatureLayout((LayerLayout(0, 4), LayerLayout(4))), config())


def test_auto_takes_equivariant_heads_with_vectors_and_edge_heads_without() -> None:
    equivariant, edge = Heads(VECTORS, config()), Heads(INVARIANT, config())
    assert isinstance(equivariant.dipole, VectorHead)
    assert isinstance(equivariant.quadrupole, TensorHead)
    assert isinstance(edge.dipole, EdgeHead)
    assert isinstance(edge.quadrupole, EdgeHead)


def test_charges_alone_need_no_directions() -> None:
    charges_only = LongRangeConfig.parse({"multipoles": ["charge"], "heads": "equivariant"})
    latent = Heads(FeatureLayout((LayerLayout(5),)), charges_only)(NodeFeatures([LayerFeatures(torch.randn(3, 5))]))
    assert latent.multipoles.order == 0
    assert latent.multipoles.charge.shape == (3,)


def open_boundary(n_atoms: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(n_atoms, dtype=torch.long)


def evaluate(part: LongRange, layout: FeatureLayout) -> Any:
    places = positions()
    return part(features(layout, places), places, *open_boundary())
