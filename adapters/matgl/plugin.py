"""MatGL as a host of les-plugins; imports nothing of it. The functions lie in the modules that `parts` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost


class MatGLHost(PackagedHost):
    """TensorNet and M3GNet of MatGL, trained by `MGLPotentialTrainer`."""

    name = "matgl"
    distribution = "matgl"
    supported = ">=4.1,<4.2"
    extra = "matgl"
    packages = ("matgl",)
    resume_hint = " with ckpt_path: LAST.ckpt in the config file"
    parts: ClassVar[Mapping[str, str]] = {
        "attach": "les_plugins.adapters.matgl.model:attach_long_range",
        "calculator": "les_plugins.adapters.matgl.calculator:LesMatGLCalculator",
        "state": "les_plugins.adapters.matgl.state:take_apart",
        "rebuild": "les_plugins.adapters.matgl.state:rebuild",
        "train": "les_plugins.adapters.matgl.train:train",
        "pretrained": "les_plugins.adapters.matgl.pretrained:pretrained",
        "contract": "les_plugins.adapters.matgl.contract:CONTRACTS",
    }


les_hosts = brings(MatGLHost())
