"""The adapter contract on a host whose model returns forces."""

from pathlib import Path

from les_tiny_forces import adapter, plugin
from les_tiny_forces.contract import TinyForcesContract


class TestTinyForces(TinyForcesContract):
    pass


def test_the_adapter_with_its_trainer_has_less_than_three_hundred_lines() -> None:
    assert sum(len(Path(part.__file__).read_text("utf-8").splitlines()) for part in (adapter, plugin)) < 300
