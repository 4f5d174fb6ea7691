"""Plugins that cannot be used: each is listed with the reason, and the others work on."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from torch import nn
from toy_host import BareHost

import les_plugins
from les_plugins import LatentElectrostatics, LongRangeConfig
from les_plugins.errors import ConfigError, HostError
from les_plugins.hosting import registry as plugins
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.hosting.types import HostInfo, PackagedHost
from les_plugins.model.features import FeatureLayout, LayerLayout

LAYOUT = FeatureLayout((LayerLayout(4, 4, 0), LayerLayout(4)))


def test_a_broken_third_party_plugin_is_listed_with_its_error_and_takes_no_other_down(with_plugins: Any) -> None:
    with_plugins(broken=ImportError("no module named lost"))
    listed = {info.name: info for info in plugins.hosts()}
    assert "mace" in listed
    assert listed["broken"].problem == "third_party.broken could not be loaded: ImportError: no module named lost"
    part = build_long_range(LAYOUT, LongRangeConfig())
    assert type(part.electrostatics) is LatentElectrostatics


class Wrong:
    @hookimpl
    def les_heads(self, feature: Any) -> None: ...


class Newer:
    @hookimpl
    def les_teleport(self) -> None: ...


class Former:
    @hookimpl
    def les_host_info(self) -> None: ...


class FormerSolver:
    @hookimpl
    def les_make_solver(self, config: Any) -> None: ...


class Failing:
    @hookimpl
    def les_hosts(self) -> Any:
        raise OSError("disk gone")


class NotAHost:
    @hookimpl
    def les_hosts(self) -> Any:
        return [BareHost]


class Unmarked:
    def les_hosts(self) -> Any:
        return [BareHost()]


class Ours:
    @hookimpl
    def les_solvers(self) -> Any:
        return {"direct": lambda config: LatentElectrostatics(sigma=2.0)}


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        (Wrong(), "feature"),
        (Newer(), "les_teleport"),
        (Former(), "les_host_info is a hook of les-plugins 0.1; now it is les_hosts() -> Sequence[Host]"),
        (FormerSolver(), "now it is les_solvers() -> Mapping[str, SolverFactory]"),
        (Failing(), "its les_hosts failed: OSError: disk gone"),
        (Unmarked(), "it has no hook; mark one of les_hosts, les_heads, les_solvers, les_responses with @hookimpl"),
        (NotAHost(), "its les_hosts returned a BareHost; expected objects of Host"),
        (Ours(), "'direct' of its les_solvers is left out: les-plugins brings one of that name"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_listed_with_the_reason_and_takes_no_other_down(
    with_plugins: Any, plugin: object, problem: str
) -> None:
    with_plugins(third=plugin)
    part = build_long_range(LAYOUT, LongRangeConfig(method="direct"))
    assert type(part.electrostatics) is LatentElectrostatics
    listed = {info.name: info for info in plugins.hosts()}
    assert "mace" in listed
    assert problem in str(listed["third"].problem)


def test_a_host_whose_info_fails_is_listed_with_its_error(with_plugins: Any) -> None:
    class Failing(BareHost):
        def info(self) -> HostInfo:
            raise OSError("disk gone")

    with_plugins(failing=Failing())
    listed = {info.name: info for info in plugins.hosts()}
    assert "mace" in listed
    assert "OSError: disk gone" in str(listed["toy"].problem)


def test_a_host_written_for_another_version_of_the_interface_is_listed_and_not_used(with_plugins: Any) -> None:
    class Later(BareHost):
        api_version = 2

    with_plugins(later=Later())
    (info,) = (info for info in plugins.hosts() if info.name == "toy")
    assert not info.available
    assert "written for version 2 of the interface" in str(info.problem)
    with pytest.raises(HostError, match=r"toy: .*version 2 .* has 1"):
        plugins.host("toy")
    with pytest.raises(HostError, match="no adapter knows"):
        les_plugins.attach(nn.Linear(1, 1), {})


def test_two_plugins_of_one_entry_point_name_are_a_problem_of_the_second(with_plugins: Any) -> None:
    with_plugins(mace=BareHost())
    listed = {info.name: info for info in plugins.hosts()}
    assert listed["mace"].distribution == "mace-torch"
    assert "toy" not in listed
    assert "has the entry point 'mace' too" in str(listed["mace (third_party.mace)"].problem)


def test_a_part_that_names_no_attribute_of_its_module_is_an_error_that_names_it(with_plugins: Any) -> None:
    class Misnamed(PackagedHost):
        name = "misnamed"
        distribution = "torch"
        supported = ">=1"
        packages = ("torch",)
        parts: ClassVar = {"attach": "toy_host:atach"}

    with_plugins(misnamed=Misnamed())
    with pytest.raises(HostError, match=r"Misnamed.parts has attach: 'toy_host:atach'.*no attribute 'atach'"):
        plugins.host("misnamed").attach(nn.Linear(1, 1), LongRangeConfig())


def test_two_hosts_of_one_name_are_a_problem_of_the_second(with_plugins: Any) -> None:
    with_plugins(one=BareHost(), two=BareHost())
    listed = {info.name: info for info in plugins.hosts()}
    assert listed["toy"].available
    assert "'toy' is left out" in str(listed["two"].problem)


class WithoutResponse(nn.Module):
    """A solver with the call of `LatentElectrostatics` that leaves softness and polarizability unread."""


def test_a_response_with_a_solver_that_has_none_is_an_error_that_names_the_solver(with_plugins: Any) -> None:
    class Brings:
        @hookimpl
        def les_solvers(self) -> Any:
            return {"plain": lambda config: WithoutResponse()}

    with_plugins(plain=Brings())
    assert isinstance(build_long_range(LAYOUT, LongRangeConfig(method="plain")).electrostatics, WithoutResponse)
    section = LongRangeConfig.parse({"method": "plain", "response": {"dipole": "isotropic"}})
    with pytest.raises(ConfigError, match=r"the solver 'plain' \(run.method\) has no response"):
        build_long_range(LAYOUT, section)
