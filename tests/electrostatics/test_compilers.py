"""The layer under every compiler, feature by feature: the numbers of the eager layer, or a refusal in words, or NaN.

What is found is the table of docs/reference/compilers.md; see `compilers_page`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import pytest
import torch
from compilers_page import check_column, refusal
from torch import Tensor, nn

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics.multipoles import traceless
from les_plugins.electrostatics.observables import born_effective_charges
from les_plugins.errors import LesPluginsError

#: Sums in another order, relative to the largest value.
ROUNDING = 1e-10
STATIC = (9.0, 9.0, 9.0)
Run = Callable[..., tuple[Tensor, ...]]

#: What each system holds beside its geometry.
CHARGE = ("charge",)
FIRST = ("charge", "dipole", "softness", "isotropic")
FULL = ("charge", "dipole", "quadrupole", "softness", "anisotropic")
CHANNELS = ("channels",)
FLOW = (*FIRST, "edges")
PLAIN = (
    ("charge", CHARGE),
    ("charge, dipole; induced charge; isotropic induced dipole", FIRST),
    ("charge, dipole, quadrupole; induced charge; anisotropic induced dipole", FULL),
    ("charge, dipole; charge over pairs; isotropic induced dipole", FLOW),
    ("charge channels", CHANNELS),
)


class Layer(nn.Module):
    """The layer with tensors in and tensors out."""

    def __init__(self, names: tuple[str, ...], **settings) -> None:
        super().__init__()
        self.names = names
        self.layer = LatentElectrostatics(dl=2.0, net_charge_warning=None, **settings)

    def forward(self, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, *values: Tensor):
        given = dict(zip(self.names, values, strict=True))
        charge = given["channels"] if "channels" in given else given["charge"]
        softness, pairs = given.get("softness"), None
        if "edges" in given:
            softness, pairs = None, pairs_of(positions, given["softness"], given["edges"])
        result = self.layer(
            positions,
            cell,
            pbc,
            batch,
            Multipoles(charge, given.get("dipole"), given.get("quadrupole")),
            softness=softness,
            polarizability=given.get("isotropic", given.get("anisotropic")),
            external_field=given.get("field"),
            pair_softness=pairs,
        )
        flow = () if result.flow is None else (result.flow.charge,)
        return *(value for value in result[:6] if value is not None), *flow


def pairs_of(positions: Tensor, softness: Tensor, edges: Tensor) -> PairSoftness:
    """A smooth softness of pairs, of those of the atoms."""
    centre, neighbor = edges.unbind(1)
    vector = positions[neighbor] - positions[centre]
    value = 100.0 * softness[centre] * softness[neighbor] * torch.exp(-vector.square().sum(1) / 10.0)
    return PairSoftness(centre, neighbor, vector, value)


class Mode(NamedTuple):
    """A way to run the layer.

    Attributes:
        compile: a function of the module and example inputs.
        twice: the result can be asked for second derivatives.
    """

    compile: Callable[[Layer, tuple[Tensor, ...]], Run]
    twice: bool = True


def exported(run: Layer, example: tuple[Tensor, ...]) -> Run:
    atoms, structures, edges = (torch.export.Dim(name, min=2) for name in ("atoms", "structures", "edges"))
    values = tuple({0: edges if name == "edges" else atoms} for name in run.names)
    shapes = ({0: atoms}, {0: structures}, {0: structures}, {0: atoms}, values)
    return torch.export.export(run, example, dynamic_shapes=shapes, strict=False).module()


MODES = {
    "eager": Mode(lambda run, example: run),
    "TorchScript": Mode(lambda run, example: torch.jit.trace(run, example, check_trace=False)),
    "torch.export": Mode(exported),
    "torch.compile (inductor)": Mode(
        lambda run, example: torch.compile(run, fullgraph=True, dynamic=True), twice=False
    ),
}
#: Compilers that take a minute and more.
SLOW = ("torch.export", "torch.compile (inductor)")


def system(names: tuple[str, ...], counts: tuple[int, ...], seed: int, size: float = 6.0) -> tuple[Tensor, ...]:
    """Random atoms in skew cells of about `size` Å, the last left-handed, atoms not in order of the structures."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    total = sum(counts)
    cell = size * (torch.eye(3, dtype=torch.float64) + 0.1 * normal(len(counts), 3, 3).clamp(-1.5, 1.5))
    cell[-1, 2] *= -1.0
    batch = torch.cat([torch.full((count,), number) for number, count in enumerate(counts)]).flip(0)
    root = 0.1 * normal(total, 3, 3)
    values = {
        "charge": normal(total),
        "channels": normal(total, 2),
        "dipole": normal(total, 3),
        "quadrupole": traceless(normal(total, 3, 3)),
        "softness": 0.01 * normal(total).abs(),
        "isotropic": 0.01 * normal(total).abs(),
        "anisotropic": root @ root.transpose(1, 2),
        "field": normal(len(counts), 3),
        "edges": ((batch[:, None] == batch) & ~torch.eye(total, dtype=torch.bool)).nonzero(),
    }
    geometry = ((size * torch.rand(total, 3, generator=generator, dtype=torch.float64)).requires_grad_(), cell)
    pbc = torch.ones(len(counts), 3, dtype=torch.bool)
    given = (values[name].requires_grad_(values[name].is_floating_point()) for name in names)
    return (geometry[0], geometry[1].requires_grad_(), pbc, batch, *given)


def with_derivatives(run: Run, twice: bool = True) -> Run:
    """Energy and the other results, then energy gradients with respect to positions and cell."""

    def derived(positions: Tensor, cell: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        results = run(positions, cell, *rest)
        return *results, *torch.autograd.grad(
            results[0].sum(), [positions, cell], create_graph=twice, retain_graph=True, materialize_grads=True
        )

    return derived


def deviation(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> str:
    """ "same", or how large the largest relative deviation is."""
    worst = max(
        float((mine - right).detach().abs().max()) / max(1.0, float(right.detach().abs().max()))
        for mine, right in zip(found, expected, strict=True)
    )
    return "same" if worst < ROUNDING else f"differs by {worst:.0e}"


class Column:
    """Finds what becomes of each feature in one mode; compiles each kind of system once."""

    def __init__(self, mode: Mode, eager: bool) -> None:
        self.mode, self.eager = mode, eager
        self.compiled = cache(self._compiled)

    def _compiled(self, names: tuple[str, ...], **settings) -> Run:
        static = {} if self.eager else {"static_cell": STATIC}
        module, example = Layer(names, **{**static, **settings}), system(names, (5, 4), seed=1)
        return with_derivatives(self.mode.compile(module, example), self.mode.twice)

    def compare(self, names: tuple[str, ...], inputs: tuple[Tensor, ...], part: slice = slice(None), **settings) -> str:
        found = self.compiled(names, **settings)(*inputs)
        expected = with_derivatives(Layer(names, **{key: value for key, value in settings.items() if key != "method"}))
        outcome = deviation(found[part], expected(*inputs)[part])
        return "yes" if self.eager and outcome == "same" else outcome

    def uncovered(self, change: str) -> str:
        """One structure of two is changed so that the grid does not hold it."""
        positions, cell, pbc, batch, *values = system(FULL, (5, 4), seed=2)
        cell, pbc = cell.detach().clone(), pbc.clone()
        if change == "long":
            cell[1] *= 2.0
        elif change == "slab":
            pbc[1, 2] = False
        else:
            pbc[1 if change == "one open" else slice(None)] = False
        inputs = (positions, cell.requires_grad_(), pbc, batch, *values)
        if self.eager:
            return self.compare(FULL, inputs)
        atomic = self.compiled(FULL)(*inputs)[1]
        wrong = ~pbc.all(1) if change != "long" else torch.tensor([False, True])
        assert bool(atomic[~wrong[batch]].isfinite().all())
        return "NaN" if bool(atomic[wrong[batch]].isnan().all()) else "finite and wrong"

    def born(self) -> str:
        inputs = system(FULL, (5, 4), seed=3)
        born = []
        for run in (self.compiled(FULL), with_derivatives(Layer(FULL))):
            *_, charge, dipole = run(*inputs)[:6]
            born.append(born_effective_charges(*inputs[:4], charge, dipole))
        return deviation((born[0],), (born[1],)).replace("same", "yes" if self.eager else "same")

    def second(self) -> str:
        inputs = system(FULL, (5, 4), seed=4)
        wanted = [inputs[0], inputs[1], *inputs[4:]]
        gradients = []
        for run in (self.compiled(FULL), with_derivatives(Layer(FULL))):
            results = run(*inputs)
            if not self.mode.twice:  # the compiled function alone was asked for first derivatives; now for both
                (force,) = torch.autograd.grad(results[0].sum(), inputs[0], create_graph=True)
                results = (results[0], force, force)
            loss = results[0].sum() + results[-2].square().sum() + results[-1].square().sum()
            gradients.append(torch.autograd.grad(loss, wanted))
        return deviation(*gradients).replace("same", "yes" if self.eager else "same")

    def find(self) -> dict[str, str]:
        usual = {names: system(names, (5, 4), seed=5) for names in (CHARGE, FIRST, FULL, FLOW, CHANNELS)}
        mine, moved = system(FULL, (5, 4), seed=5), system(FULL, (3, 4, 5), seed=6, size=5.0)
        tries: dict[str, Callable[[], str]] = {
            **{feature: lambda names=names: self.compare(names, usual[names], slice(-2)) for feature, names in PLAIN},
            "forces and virial": lambda: self.compare(FULL, mine),
            "Born effective charges": self.born,
            "second derivatives (training on forces)": self.second,
            "triclinic and left-handed cells in one batch": lambda: self.compare(FULL, mine),
            "other numbers of atoms and structures, other cells": lambda: self.compare(FULL, moved),
            "a cell beyond static_cell": lambda: self.uncovered("long"),
            "open structure": lambda: self.uncovered("open"),
            "open and periodic in one batch": lambda: self.uncovered("one open"),
            "slab": lambda: self.uncovered("slab"),
            "without static_cell": lambda: self.compare(CHARGE, usual[CHARGE], static_cell=None),
            "neutralize: shift": lambda: self.compare(CHARGE, usual[CHARGE], neutralize="shift"),
            "neutralize: refuse": self.refuse_net_charge,
            "external field": self.field,
            "method: mesh (compiled: direct)": self.mesh,
            "response: self_consistent": lambda: self.compare(FIRST, usual[FIRST], response="self_consistent"),
            "process group": self.process_group,
        }
        return {feature: said(look) for feature, look in tries.items()}

    def mesh(self) -> str:
        inputs = system(CHARGE, (5, 4), seed=5)
        if not self.eager:
            return self.compare(CHARGE, inputs, method="mesh")
        found, expected = (with_derivatives(Layer(CHARGE, method=method))(*inputs)[0] for method in ("mesh", "direct"))
        # the mesh is asked for 1e-5 of the forces
        return "yes" if torch.allclose(found, expected, rtol=1e-4) else "wrong"

    def refuse_net_charge(self) -> str:
        inputs = system(CHARGE, (5, 4), seed=5)
        neutral = (
            inputs[4].detach()
            - inputs[4].detach().new_zeros(2).index_add(0, inputs[3], inputs[4].detach())[inputs[3]]
            / torch.bincount(inputs[3])[inputs[3]]
        )
        return self.compare(CHARGE, (*inputs[:4], neutral.requires_grad_()), neutralize="refuse")

    def field(self) -> str:
        names = ("charge", "field")
        positions, cell, pbc, batch, *values = system(names, (5, 4), seed=5)
        if self.eager:
            return self.compare(names, (positions, cell, ~pbc, batch, *values), slice(-1))
        return self.compare(names, (positions, cell, pbc, batch, *values))

    def process_group(self) -> str:
        distributed = torch.distributed
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        try:
            inputs = system(CHARGE, (5, 4), seed=5)
            return self.compare(CHARGE, inputs, process_group=distributed.group.WORLD)
        finally:
            distributed.destroy_process_group()


def said(look: Callable[[], str]) -> str:
    try:
        return look()
    except (LesPluginsError, RuntimeError) as error:
        refused = error
        while refused.__cause__ is not None and not isinstance(refused, LesPluginsError):
            refused = refused.__cause__  # compilers wrap what is raised while they trace
        return refusal(refused)


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Compilers keep what they made, and want no buffers given away that a second derivative reads."""
    import torch._dynamo
    import torch._functorch.config

    keep = {"donated_buffer": False} if hasattr(torch._functorch.config, "donated_buffer") else {}  # torch 2.4 has none
    with torch._functorch.config.patch(keep):
        yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript as such
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # what it warns of is what is tested
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's compiler, of torch's own code
@pytest.mark.parametrize(
    "mode",
    [pytest.param(mode, marks=[pytest.mark.slow] if mode in SLOW else []) for mode in MODES],
)
@pytest.mark.usefixtures("_quiet")
def test_every_feature_gives_the_eager_numbers_or_is_refused_as_docs_compilers_says(mode: str) -> None:
    found = Column(MODES[mode], eager=mode == "eager").find()
    assert [feature for feature, cell in found.items() if "differs" in cell or "wrong" in cell] == []
    check_column(mode, found)
