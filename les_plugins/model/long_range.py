"""`LongRange`: heads, electrostatics and response as one module, what an adapter puts behind its host's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from les_plugins.electrostatics import LatentElectrostatics
from les_plugins.electrostatics.flow import PairSoftness, Transfers, polarizability_with_flow
from les_plugins.electrostatics.local import to_structures
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.electrostatics.net_charge import neutralized
from les_plugins.electrostatics.parallel.reduction import reduce_total
from les_plugins.electrostatics.total_charge import SpreadCharge, check_total_charge
from les_plugins.errors import ConfigError
from les_plugins.model.features import NodeFeatures
from les_plugins.model.heads import LatentVariables
from les_plugins.model.total_charge import TotalCharge

if TYPE_CHECKING:
    from les_plugins.config import LongRangeConfig, RunConfig


class LongRangeResult(NamedTuple):
    """Long-range energy and latent variables of a batch.

    Attributes:
        energy: (B,) eV, float64.
        atomic_energy: (N,) eV, float64; sums to `energy`.
        potential: (N,) V and field: (N, 3) V/Å, of the permanent moments.
        charge: (N,) e and dipole: (N, 3) e·Å or None, induced part included.
        permanent: the permanent moments alone.
        softness: (N,) e²/eV or None.
        polarizability: (N,) or (N, 3, 3) e²·Å²/eV or None.
        collective_polarizability: (N, 3, 3) e²·Å²/eV with mutual polarization and where it was asked
            for (`with_collective_polarizability`), else None.
        pair_softness: e²/eV of pairs of neighbours, or None.
        transfers: of permanent charge between neighbours where charge is conserved, or None.
        element_charges: (N,) e, the permanent charges without the transfers, or None.
        flow: of induced charge between neighbours, or None.
        total_charge: (B,) e, physical, of every structure where it is given, or None.
        keep_graph: whether the host is asked to keep the graph of the forces that it makes of `energy`.
    """

    energy: Tensor
    atomic_energy: Tensor
    potential: Tensor
    field: Tensor
    charge: Tensor
    dipole: Tensor | None
    permanent: Multipoles
    softness: Tensor | None
    polarizability: Tensor | None
    collective_polarizability: Tensor | None = None
    pair_softness: PairSoftness | None = None
    transfers: Transfers | None = None
    element_charges: Tensor | None = None
    flow: Transfers | None = None
    total_charge: Tensor | None = None
    keep_graph: bool = False

    @property
    def dipolar(self) -> Tensor | None:
        """(N,) or (N, 3, 3) e²·Å²/eV: polarizabilities that add up to that of a periodic structure, flow included."""
        if self.collective_polarizability is not None:
            return self.collective_polarizability
        return polarizability_with_flow(self.polarizability, self.pair_softness, self.charge.shape[0])


def as_result(found: Any) -> LongRangeResult:
    """A result of packaged code, whose class is a copy of ours, maybe of an earlier version, as one of ours."""
    if isinstance(found, LongRangeResult):
        return found
    return LongRangeResult(**{name: getattr(found, name) for name in LongRangeResult._fields if hasattr(found, name)})


class LongRange(nn.Module):
    """The three steps between a host's features and its force differentiation.

    Args:
        heads: from `NodeFeatures` to `LatentVariables`.
        layer: with the call of `LatentElectrostatics`; the response is in it.
        config: the `long_range:` section that both were made from (`hosting.build.build_long_range`).
    """

    gauge: Tensor

    def __init__(self, heads: nn.Module, layer: LatentElectrostatics, config: LongRangeConfig) -> None:
        super().__init__()
        self._config: LongRangeConfig | None = config
        self.neutralize = config.neutralize
        self.total_charge: TotalCharge | None = None
        if config.total_charge == "given":
            self.neutralize, self.total_charge = "keep", TotalCharge(config.epsilon_infinity)
        self.static_cell = config.run.static_cell
        self.heads = heads
        self.electrostatics = layer
        # E is even in the moments, so their common sign is a convention: see `gauge.read_sign`
        self.register_buffer("gauge", torch.ones(()))
        self.coupling = nn.Parameter(torch.zeros(())) if config.zero_init else None
        if config.screening == "trained":
            self.log_screening = nn.Parameter(torch.tensor(float(config.epsilon_infinity)).log())

    @property
    def config(self) -> LongRangeConfig:
        """The `long_range:` section."""
        if self._config is None:  # a packaged model runs without the class, until it is asked for its section
            from les_plugins.config import LongRangeConfig

            self._config = LongRangeConfig.parse(self._section)
        return self._config

    def __getstate__(self) -> dict[str, Any]:
        """Plain types alone: what unpickles it need not have the class of the section."""
        section = self._section if self._config is None else self._config.to_dict()
        return {**self.__dict__, "_config": None, "_section": section}

    def __setstate__(self, state: dict[str, Any]) -> None:
        section = state["_section"]  # pickles of before have nothing else
        former = {
            "_config": None,
            "neutralize": section.get("neutralize", "background"),
            "static_cell": section.get("static_cell"),
        }
        super().__setstate__({**former, **state})  # type: ignore[no-untyped-call]
        if not hasattr(self, "total_charge"):
            self.total_charge = None

    def forward(
        self,
        features: NodeFeatures,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        external_field: Tensor | None = None,
        total_charge: Tensor | None = None,
    ) -> LongRangeResult:
        """Long-range result of a batch.

        Args:
            features: the host's features.
            positions: (N, 3) Å, strained when the host differentiates with respect to strain.
            cell: (B, 3, 3) Å, strained likewise.
            pbc: (B, 3) bool.
            batch: (N,) integer.
            external_field: (B, 3) or (3,) V/Å, on open structures and along the normal of slabs.
            total_charge: (B,) e, physical, of every structure, for a model with `total_charge: given` alone.

        Raises:
            ConfigError: a total charge for a model that does not read it, or none for one that does.
            GeometryError: what the layer raises, and a total charge that does not fit the structures.
        """
        latent = LatentVariables(*self.heads(features))
        softness, polarizability = latent.softness, latent.polarizability
        transfers, rigid = latent.transfers, latent.element_charges
        factor = self.gauge.to(latent.multipoles.charge.dtype)
        multipoles = _scaled(latent.multipoles, factor)
        # the layer does it too, but the permanent moments are reported, and a third party's layer may not
        ranks = getattr(self.electrostatics, "ranks", None)
        charge = neutralized(multipoles.charge, pbc, batch, self.neutralize, ranks)
        spread = self._spread(latent, total_charge, cell, pbc, batch)
        if spread is not None:
            charge = spread.charge
            transfers = rigid = None  # what is spread depends on all positions: it has not only gone to neighbours
        multipoles = multipoles._replace(charge=charge)
        coupling = self._magnitude()
        if coupling is not None and external_field is not None:
            # the work in a field is linear in the moments: they must be the true ones
            root = _root(coupling).to(multipoles.charge.dtype)
            multipoles, factor = _scaled(multipoles, root), factor * root
            coupling = None
        result = self.electrostatics(
            positions.double(),
            cell.double(),
            pbc,
            batch,
            multipoles,
            softness=softness,
            polarizability=polarizability,
            external_field=external_field,
            # a third party's layer may not know pairs; it is refused where they are asked for
            **({} if latent.pair_softness is None else {"pair_softness": latent.pair_softness}),
            **self._energy_scale(coupling),
        )
        flow: Transfers | None = getattr(result, "flow", None)
        energy, atomic, charge, dipole = result.energy, result.atomic_energy, result.charge, result.dipole
        potential, field = result.potential, result.field
        if spread is not None:
            own = to_structures(spread.atomic_energy, batch, len(pbc))
            energy, atomic = energy + reduce_total(own, ranks), atomic + spread.atomic_energy
        if coupling is not None:
            # E is quadratic in the moments: moments × sqrt(c) give c × E, but sqrt has no slope to start from at zero
            energy, atomic = coupling * energy, coupling * atomic
            root = _root(coupling)
            charge, potential, field = root * charge, root * potential, root * field
            dipole = None if dipole is None else root * dipole
            flow = None if flow is None else flow.scaled(root)
            root = root.to(multipoles.charge.dtype)
            multipoles, factor = _scaled(multipoles, root), factor * root
        return LongRangeResult(
            energy,
            atomic,
            potential,
            field,
            charge,
            dipole,
            multipoles,
            softness,
            polarizability,
            pair_softness=latent.pair_softness,
            flow=flow,
            transfers=None if transfers is None else transfers.scaled(factor),
            element_charges=None if rigid is None else factor * rigid,
            total_charge=total_charge,
        )

    def _spread(
        self, latent: LatentVariables, total_charge: Tensor | None, cell: Tensor, pbc: Tensor, batch: Tensor
    ) -> SpreadCharge | None:
        """The charges with the total that the structures bring; None for a model that does not read it."""
        part, ranks = self.total_charge, getattr(self.electrostatics, "ranks", None)
        if part is None:
            if total_charge is not None:
                raise ConfigError(
                    f"total_charge was handed to a model with total_charge: {self.config.total_charge} in its section; "
                    "allowed: None, or a model that was trained with total_charge: given"
                )
            return None
        if total_charge is None:
            raise ConfigError(
                "total_charge: given needs the total charge of every structure, which this adapter or compiler does "
                "not hand over; allowed with it: free, conserved"
            )
        check_total_charge(total_charge, len(pbc), pbc.device, ranks)
        if part.training and any(parameter.requires_grad for parameter in self.heads.parameters()):
            alpha = polarizability_with_flow(latent.polarizability, latent.pair_softness, batch.shape[0])
            part.remember(alpha, cell, pbc, batch, ranks)
        spread: SpreadCharge = part(latent, total_charge, self.gauge, pbc, batch, ranks)
        return spread

    def with_collective_polarizability(
        self, result: LongRangeResult, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor
    ) -> LongRangeResult:
        """The result, with the polarizability of whole structures where it is not the sum of the atoms'.

        Args:
            result: of `forward`.
            positions, cell, pbc, batch: as given to it.
        """
        ask = getattr(self.electrostatics, "collective_polarizability", None)  # a third party's layer may have none
        coefficients: tuple[Any, ...] = (result.softness, result.polarizability)
        if result.pair_softness is not None:
            coefficients += (result.pair_softness,)
        collective = ask and ask(positions, cell, pbc, batch, *coefficients)
        return result._replace(collective_polarizability=collective)

    def trained_screening(self) -> Tensor | None:
        """ε_e, () with its graph, of a part whose screening is trained; None where epsilon_infinity fixes it."""
        logarithm: Tensor | None = getattr(self, "log_screening", None)  # pickles of before have no such attribute
        return None if logarithm is None else logarithm.exp()

    def note_epsilon_infinity(self, susceptibility: float | None) -> None:
        """Put ε_e (1 + χ) into the section, where the screening was trained.

        Args:
            susceptibility: ⟨χ⟩ of the material; None without induced dipoles.
        """
        screening = self.trained_screening()
        if screening is not None:
            self._config = self.config.with_epsilon_infinity(
                float(screening.detach()) * (1.0 + (susceptibility or 0.0))
            )

    def set_run(self, run: RunConfig) -> None:
        """Take the choices of another run of the same model."""
        self._config = self.config.model_copy(update={"run": run})
        self.set_static_cell(run.static_cell)

    def set_static_cell(self, lengths: tuple[float, float, float] | None) -> None:
        """Size the grid of compiled code: the longest lattice vectors that it has to cover, Å.

        Raises:
            ConfigError: not three positive lengths, or too long ones.
        """
        self._config = self.config.with_run(static_cell=lengths)
        self.static_cell = self._config.run.static_cell
        if isinstance(self.electrostatics, LatentElectrostatics):
            self.electrostatics.change_settings(static_cell=self.static_cell)

    def zero(self) -> None:
        """Set every moment to zero for good, so that the host's own predictions come back (a test of adapters)."""
        self.gauge.zero_()

    def flip_gauge(self) -> None:
        """Change the common sign of all latent moments; energy and forces do not change."""
        self.gauge.neg_()

    def _energy_scale(self, coupling: Tensor | None) -> dict[str, Tensor]:
        """What the layer is told of the coupling: until it is trained, no net charge of the moments acts on an atom."""
        own = isinstance(self.electrostatics, LatentElectrostatics)
        return {} if coupling is None or not own else {"energy_scale": coupling}

    def _magnitude(self) -> Tensor | None:
        """|x| with slope 1 at zero: a coupling that starts there moves whichever way it is pushed, heads get gradients.

        Clipping at zero instead would freeze the heads of every start whose random moments happen to anticorrelate with
        the target: the coupling runs below zero and nothing reaches them.
        """
        if self.coupling is None:
            return None
        return torch.where(self.coupling < 0.0, -self.coupling, self.coupling).double()


def _root(coupling: Tensor) -> Tensor:
    """Its square root without a graph; compilers drop the detachment, and the slope at zero must be finite then."""
    positive = coupling.detach() > 0.0
    return torch.where(positive, coupling.detach(), torch.ones_like(coupling)).sqrt() * positive


def _scaled(moments: Multipoles, factor: Tensor) -> Multipoles:
    """Every moment times one factor."""
    charge, dipole, quadrupole = moments
    return Multipoles(
        factor * charge,
        None if dipole is None else factor * dipole,
        None if quadrupole is None else factor * quadrupole,
    )
