"""TinyForces as a host of les-plugins; imports nothing of it."""

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost


class TinyForcesHost(PackagedHost):
    name = "tiny_forces"
    distribution = "les-tiny-forces"
    supported = ">=0.1,<0.2"
    packages = ("tiny_forces",)
    parts = {  # noqa: RUF012
        "attach": "les_tiny_forces.adapter:LongRangeForces",
        "calculator": "les_tiny_forces.adapter:Calculator",
        "state": "les_tiny_forces.adapter:state",
        "rebuild": "les_tiny_forces.adapter:rebuild",
        "train": "les_tiny_forces.adapter:train",
        "contract": "les_tiny_forces.contract:TinyForcesContract",
    }


les_hosts = brings(TinyForcesHost())
