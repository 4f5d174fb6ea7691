"""The grid of fixed size that compilers trace: the same numbers as the direct sum, and nothing silently wrong."""

from __future__ import annotations

import math

import pytest
import torch
from tracing import trace

from les_plugins import LatentElectrostatics, Multipoles
from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics.multipoles import traceless
from les_plugins.errors import ConfigError, GeometryError
from les_plugins.hosting.build import build_long_range

#: Rounding of sums over a thousand wave vectors, relative.
ROUNDING = 1e-12
CELLS = torch.tensor(
    [
        [[6.0, 0.0, 0.0], [0.5, 7.0, 0.0], [1.0, -0.5, 8.0]],
        [[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 9.9]],
        [[9.0, 1.0, 0.0], [0.0, 6.0, 1.0], [2.0, 0.0, -5.0]],  # left-handed
    ],
    dtype=torch.float64,
)
BATCH = torch.tensor([0] * 7 + [2] * 6 + [1] * 5)
PERIODIC = torch.ones(3, 3, dtype=torch.bool)
FULL_RESPONSE = {"charge": True, "dipole": "anisotropic"}
RESPONSE = torch.linspace(0.1, 0.5, 18, dtype=torch.float64)


def structure(order: int):
    generator = torch.Generator().manual_seed(order)
    random = [torch.randn(18, *shape, generator=generator, dtype=torch.float64) for shape in ((3,), (), (3,), (3, 3))]
    positions, charge, dipole, quadrupole = random
    quadrupole = 2.0 * traceless(quadrupole)
    moments = Multipoles(charge, dipole if order >= 1 else None, quadrupole if order >= 2 else None)
    return (10.0 * positions).requires_grad_(), CELLS.clone().requires_grad_(), moments


def evaluate(layer, pbc=PERIODIC):
    def run(positions, cell, *moments):
        multipoles = Multipoles(*moments, *(None,) * (3 - len(moments)))
        result = layer(positions, cell, pbc, BATCH, multipoles, softness=RESPONSE, polarizability=RESPONSE)
        forces, virial = torch.autograd.grad(result.energy.sum(), [positions, cell], create_graph=True)
        return (*(value for value in result if value is not None), forces, virial)

    return run


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("keep_self", [True, False])
def test_traced_code_gives_the_direct_sums_numbers_and_derivatives_of_both_orders(order, keep_self):
    positions, cell, multipoles = structure(order)
    moments = [value.clone().requires_grad_() for value in multipoles if value is not None]
    layer = LatentElectrostatics(static_cell=(10.0, 10.0, 10.0), remove_self_interaction=not keep_self)
    direct = evaluate(layer)(positions, cell, *moments)
    traced = trace(evaluate(layer))(positions, cell, *moments)(positions, cell, *moments)
    for mine, reference in zip(traced, direct, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=ROUNDING * float(reference.detach().abs().max()))
    losses = [value[0].sum() + value[-2].square().sum() + value[-1].square().sum() for value in (traced, direct)]
    gradients = [torch.autograd.grad(loss, [positions, cell, *moments]) for loss in losses]
    for mine, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=ROUNDING * float(reference.abs().max()))


def test_one_trace_serves_every_cell_that_the_grid_covers():
    positions, cell, multipoles = structure(2)
    layer = LatentElectrostatics(static_cell=(12.0, 12.0, 12.0))
    traced = trace(evaluate(layer))(positions, cell, *multipoles)
    strain = torch.tensor([[1.15, 0.1, 0.0], [0.0, 0.8, -0.1], [0.05, 0.0, 1.1]], dtype=torch.float64)
    moved = (positions @ strain).detach().requires_grad_(), (cell @ strain).detach().requires_grad_()
    for mine, reference in zip(traced(*moved, *multipoles), evaluate(layer)(*moved, *multipoles), strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=ROUNDING * float(reference.detach().abs().max()))


@pytest.fixture(scope="module")
def energy_and_slope():
    """A function of boundaries, positions, cell and moments, and what was traced of it for a batch of crystals."""
    positions, cell, multipoles = structure(1)
    layer = LatentElectrostatics(static_cell=(10.0, 10.0, 10.0))

    def run(pbc, positions, cell, *moments):
        energy = layer(positions, cell, pbc, BATCH, Multipoles(*moments)).atomic_energy
        return energy, torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]

    return run, trace(run)(PERIODIC, positions, cell, *multipoles[:2])


@pytest.mark.parametrize("change", ["too long", "zero cell", "open", "slab"])
def test_what_the_grid_does_not_cover_is_nan_when_traced_and_an_error_when_not(change, energy_and_slope):
    positions, cell, multipoles = structure(1)
    (run, traced), moments = energy_and_slope, multipoles[:2]
    other, pbc = cell.detach().clone(), PERIODIC.clone()
    if change == "too long":
        other[1, 2, 2] = 10.9  # the grid for 10 Å ends at n = 8, this cell needs 9
    elif change == "zero cell":
        other[1] = 0.0
    else:
        pbc[1, 2 if change == "slab" else slice(None)] = False
    found, right = traced(pbc, positions, other, *moments), run(PERIODIC, positions, cell, *moments)
    torch.testing.assert_close(found[0][BATCH != 1], right[0][BATCH != 1])
    assert all(bool(value[BATCH == 1].isnan().all()) for value in found)
    with pytest.raises(GeometryError, match=r"static_cell is .* structure 1.*allowed: periodic structures"):
        run(pbc, positions, other, *moments)


@pytest.mark.skipif(
    torch.__version__.startswith("2.4."), reason="torch.compile of torch 2.4 knows no max of attributes"
)
def test_torch_compile_sees_a_grid_of_numbers_and_compiles_once_for_all_sizes():
    """The floats of a layer are symbols to dynamic=True: a grid whose sizes are expressions of them compiles slowly."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph, example):
        graphs.append(graph)
        return graph.forward

    layer = LatentElectrostatics(static_cell=(10.0, 10.0, 10.0), net_charge_warning=None)
    compiled = torch.compile(layer, backend=keep, fullgraph=True, dynamic=True)
    positions, cell, multipoles = structure(2)
    try:
        for count in (2, 3):
            among = count > BATCH
            inputs = (positions.detach()[among], cell.detach()[:count], PERIODIC[:count], BATCH[among])
            moments = Multipoles(*(value[among] for value in multipoles))
            found, expected = compiled(*inputs, moments).energy, layer(*inputs, moments).energy
            torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)
    finally:
        torch._dynamo.reset()
    (graph,) = graphs
    shapes = [getattr(node.meta.get("example_value"), "shape", ()) for node in graph.graph.nodes]
    sizes = [size for shape in shapes for size in shape if isinstance(size, torch.SymInt)]
    assert len({symbol for size in sizes for symbol in size.node.expr.free_symbols}) == 2  # atoms and structures


def test_tracing_without_a_static_cell_raises_an_error():
    positions, cell, multipoles = structure(0)
    with pytest.raises(ConfigError, match="set static_cell to the longest lattice vectors"):
        trace(evaluate(LatentElectrostatics()))(positions, cell, multipoles.charge)


def test_an_external_field_cannot_be_traced():
    positions, cell, multipoles = structure(0)
    layer = LatentElectrostatics(static_cell=(10.0, 10.0, 10.0))
    with pytest.raises(GeometryError, match="cannot be traced"):
        trace(lambda field: layer(positions, cell, PERIODIC, BATCH, multipoles, external_field=field).energy)(
            torch.ones(3)
        )


@pytest.mark.parametrize("lengths", [(1.0, 2.0), (0.0, 1.0, 1.0), (1.0, math.inf, 1.0), (-1.0, 1.0, 1.0)])
def test_lengths_that_make_no_grid_are_refused(lengths):
    with pytest.raises(ConfigError, match="three positive lengths"):
        LatentElectrostatics(static_cell=lengths)


def test_the_section_takes_a_list_of_three_lengths():
    assert LongRangeConfig.parse({"static_cell": [12.5, 13.0, 14]}).run.static_cell == (12.5, 13.0, 14.0)
    for wrong in ([1.0, 2.0], 12.5, ["a", 1.0, 2.0], [0.0, 1.0, 1.0]):
        with pytest.raises(ConfigError, match=r"long_range: static_cell .*three positive lengths in Å"):
            LongRangeConfig.parse({"static_cell": wrong})


def test_a_models_grid_can_be_sized_afterwards():
    from les_plugins.model.features import FeatureLayout, LayerLayout

    part = build_long_range(FeatureLayout((LayerLayout(4, 2, 1),)), LongRangeConfig())
    part.set_static_cell((9.0, 9.0, 9.0))
    assert part.config.run.static_cell == (9.0, 9.0, 9.0)
    assert part.electrostatics.settings.static_cell == (9.0, 9.0, 9.0)
    with pytest.raises(ConfigError, match="three positive lengths"):
        part.set_static_cell((9.0, 9.0))


@pytest.mark.parametrize("zero_init", [True, False])
def test_outputs_that_a_loss_does_not_read_leave_the_gradients_of_traced_code_finite(zero_init):
    """Compilers hand zero tangents to unread outputs: an infinite slope there makes every gradient NaN."""
    from les_plugins.model.features import FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures

    positions, cell, _ = structure(2)
    section = {"zero_init": zero_init, "static_cell": [10.0, 10.0, 10.0], "response": FULL_RESPONSE}
    part = build_long_range(FeatureLayout((LayerLayout(4, 2, 1),)), LongRangeConfig.parse(section)).double()
    generator = torch.Generator().manual_seed(3)
    features = [torch.randn(18, *shape, generator=generator, dtype=torch.float64) for shape in ((4,), (2, 3), (1, 5))]
    names = [name for name, _ in part.named_parameters()]

    def run(positions, cell, *values):
        given = dict(zip(names, values, strict=True))
        layers = NodeFeatures([LayerFeatures(*features)])
        result = torch.func.functional_call(part, given, (layers, positions, cell, PERIODIC, BATCH))
        forces = torch.autograd.grad(result.energy.sum(), positions, create_graph=True)[0]
        return result.energy, forces, result.charge, result.dipole, result.potential, result.field, *result.permanent

    values = [value.detach().clone().requires_grad_() for value in part.parameters()]
    outputs = trace(run)(positions, cell, *values)(positions, cell, *values)
    loss = outputs[0].sum() + outputs[1].square().sum() + sum(0.0 * output.sum() for output in outputs[2:])
    for name, gradient in zip(names, torch.autograd.grad(loss, values, allow_unused=True), strict=True):
        assert gradient is None or bool(gradient.isfinite().all()), name
