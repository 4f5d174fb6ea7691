"""SevenNet as a host of les-plugins; imports nothing of it. The functions lie in the modules that `parts` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost


class SevenNetHost(PackagedHost):
    """SevenNet, trained by `sevenn`."""

    name = "sevennet"
    distribution = "sevenn"
    supported = ">=0.13,<0.14"
    extra = "sevennet"
    packages = ("sevenn",)
    resume_hint = " with continue: {checkpoint: FILE} under train in the config file"
    parts: ClassVar[Mapping[str, str]] = {
        "attach": "les_plugins.adapters.sevennet.model:attach_long_range",
        "calculator": "les_plugins.adapters.sevennet.calculator:LesSevenNetCalculator",
        "state": "les_plugins.adapters.sevennet.state:take_apart",
        "rebuild": "les_plugins.adapters.sevennet.state:rebuild",
        "train": "les_plugins.adapters.sevennet.train:train",
        "domain_model": "les_plugins.adapters.sevennet.domains:SevenNetDomain",
        "pretrained": "les_plugins.adapters.sevennet.pretrained:pretrained",
        "contract": "les_plugins.adapters.sevennet.contract:SevenNetContract",
    }


les_hosts = brings(SevenNetHost())
