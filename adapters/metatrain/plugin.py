"""metatrain as a host of les-plugins; imports nothing of it. The functions lie in the modules that `parts` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost


class MetatrainHost(PackagedHost):
    """PET and SOAP-BPNN of metatrain, trained by its own trainers."""

    name = "metatrain"
    distribution = "metatrain"
    supported = ">=2026.4.1,<2026.5"
    extra = "metatrain"
    packages = ("metatrain",)
    parts: ClassVar[Mapping[str, str]] = {
        "attach": "les_plugins.adapters.metatrain.model:LongRangeModel",
        "calculator": "les_plugins.adapters.metatrain.calculator:LesMetatrainCalculator",
        "state": "les_plugins.adapters.metatrain.state:take_apart",
        "rebuild": "les_plugins.adapters.metatrain.state:rebuild",
        "train": "les_plugins.adapters.metatrain.train:train",
        "contract": "les_plugins.adapters.metatrain.contract:CONTRACTS",
    }


les_hosts = brings(MetatrainHost())
