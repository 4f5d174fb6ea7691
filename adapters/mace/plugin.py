"""MACE as a host of les-plugins; imports nothing of it. The functions lie in the modules that `parts` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost


class MACEHost(PackagedHost):
    """MACE, trained by `mace_run_train`."""

    name = "mace"
    distribution = "mace-torch"
    supported = ">=0.3.16,<0.4"
    extra = "mace"
    packages = ("mace",)
    compile_targets = ("torchscript", "metatomic")
    resume_options = ("--restart_latest",)
    parts: ClassVar[Mapping[str, str]] = {
        "attach": "les_plugins.adapters.mace.model:attach_long_range",
        "calculator": "les_plugins.adapters.mace.calculator:LesMACECalculator",
        "state": "les_plugins.adapters.mace.state:take_apart",
        "rebuild": "les_plugins.adapters.mace.state:rebuild",
        "train": "les_plugins.adapters.mace.train:train",
        "compile": "les_plugins.adapters.mace.torchscript:compile_model",
        "domain_model": "les_plugins.adapters.mace.domains:MACEDomain",
        "pretrained": "les_plugins.adapters.mace.pretrained:pretrained",
        "contract": "les_plugins.adapters.mace.contract:MACEContract",
    }


les_hosts = brings(MACEHost())
