"""The adapter contract on TinySchNet. `pytest` in this folder, after `pip install -e ".[testing]"` of les-plugins."""

from pathlib import Path

import pytest
from les_tiny_schnet import adapter, plugin
from les_tiny_schnet.contract import TinySchNetContract

from les_plugins.hosting import registry as plugins
from les_plugins.testing import waters
from les_plugins.testing.host import long_range_part


class TestTinySchNet(TinySchNetContract):
    pass


class TestChargesOnly(TinySchNetContract):
    """Charges alone need no edges."""

    section = {"multipoles": ["charge"], "response": {"charge": True, "dipole": "isotropic"}}  # noqa: RUF012


def test_adapter_is_found_by_its_entry_point() -> None:
    (info,) = (info for info in plugins.hosts() if info.name == "tiny_schnet")
    assert info.available, info.problem


def test_dipoles_and_quadrupoles_of_the_invariant_model_come_from_edges() -> None:
    contract = TinySchNetContract()
    permanent = contract.latent(contract.model, [waters()]).permanent
    assert type(long_range_part(contract.model).heads.dipole).__name__ == "EdgeHead"
    for moment in (permanent.dipole, permanent.quadrupole):
        assert moment.detach().abs().max() > 0.01


def test_adapter_has_less_than_a_hundred_lines() -> None:
    lines = [line for part in (adapter, plugin) for line in Path(part.__file__).read_text("utf-8").splitlines()]
    assert len([line for line in lines if line.strip()]) < 100


@pytest.mark.parametrize("name", ["model", "run"])
def test_the_host_knows_nothing_of_les_plugins(name: str) -> None:
    import tiny_schnet

    assert "les_plugins" not in (Path(tiny_schnet.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
