"""`les-plugins lammps` before LAMMPS runs: what it takes and refuses."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from tiny_domains import SECTIONS, TinyDomain
from torch import nn

from les_plugins.cli import lammps
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsWarning

ROOT = Path(__file__).parents[2]


def run_of(built: nn.Module) -> lammps._Run:
    """A run with a model of a host without domains."""
    run = lammps._Run.__new__(lammps._Run)
    run.built, run.domains = built, None
    return run


def test_the_method_is_that_of_hosts_without_domains_too() -> None:
    model = nn.Sequential(TinyDomain(SECTIONS["given"]))
    layer = model[0].long_range.electrostatics
    run_of(model).sum_by("model")
    assert layer.settings.method == "auto"
    run_of(model).sum_by("mesh")
    assert layer.settings.method == "mesh"


def test_a_method_of_a_model_without_a_sum_is_refused() -> None:
    with pytest.raises(HostError, match="--method mesh: the model has no long-range sum"):
        run_of(nn.Linear(1, 1)).sum_by("mesh")


def test_the_file_of_currents_is_looked_for_first(tmp_path: Path) -> None:
    lammps._check_currents(tmp_path / "new.h5", 0)
    (tmp_path / "old.h5").touch()
    with pytest.raises(DataError, match=r"old.h5: exists"):
        lammps._check_currents(tmp_path / "old.h5", 0)
    with pytest.raises(DataError, match="there is no folder"):
        lammps._check_currents(tmp_path / "nowhere" / "new.h5", 0)
    with pytest.raises(ConfigError, match=r"ends in \.h5"):
        lammps._check_currents(tmp_path / "new.xyz", 0)


def test_options_that_lammps_does_not_take_are_an_error_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: str) -> None:
        raise HostError("no such option")

    monkeypatch.setattr(lammps, "_GRACE", 0.0)
    for name in lammps._RANK:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(HostError):
        lammps._started(refuse, ["-bogus"])
    monkeypatch.setenv("PMI_RANK", "0")
    with pytest.raises(HostError):
        lammps._started(refuse, ["-bogus"])
    monkeypatch.setenv("PMI_RANK", "1")
    with pytest.raises(typer.Exit):
        lammps._started(refuse, ["-bogus"])


def test_elements_that_no_training_frame_had_are_warned_of() -> None:
    run = run_of(nn.Identity())
    run.calculator = SimpleNamespace(has_long_range=True)
    run.config = {"metadata": {"training": {"elements": ["H", "O"]}}}
    run._caution(["H", "O"])
    with pytest.warns(LesPluginsWarning, match="LAMMPS: has Na, and the long-range part was last trained on"):
        run._caution(["H", "Na"])


def test_every_file_of_hosts_on_ranks_has_a_session() -> None:
    sessions = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    files = sorted(ROOT.glob("tests/adapters/test_*_ranks.py"))
    assert len(files) == 3
    for file in files:
        host = re.search(rf'run_on_ranks\(session, "(\w+)", "{file.name}"\)', sessions)
        assert host, file.name
        # the short tests of the same file, in the session that runs all of the host's
        assert f'".[{host[1]},lammps,plot,dev]"' in sessions
