"""CHGNet as a host of les-plugins; imports nothing of it. The functions lie in the modules that `parts` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost


class CHGNetHost(PackagedHost):
    """CHGNet, packaged weights or new, trained by `chgnet.trainer.Trainer`."""

    name = "chgnet"
    distribution = "chgnet"
    supported = ">=0.4.2,<0.5"
    extra = "chgnet"
    packages = ("chgnet",)
    resume_hint = " with load: FILE under model in the config file, a .pth.tar of save_dir; its optimizer starts fresh"
    parts: ClassVar[Mapping[str, str]] = {
        "attach": "les_plugins.adapters.chgnet.model:attach_long_range",
        "calculator": "les_plugins.adapters.chgnet.calculator:LesCHGNetCalculator",
        "state": "les_plugins.adapters.chgnet.state:take_apart",
        "rebuild": "les_plugins.adapters.chgnet.state:rebuild",
        "train": "les_plugins.adapters.chgnet.train:train",
        "pretrained": "les_plugins.adapters.chgnet.pretrained:pretrained",
        "contract": "les_plugins.adapters.chgnet.contract:CHGNetContract",
    }


les_hosts = brings(CHGNetHost())
