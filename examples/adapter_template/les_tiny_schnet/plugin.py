"""TinySchNet as a host of les-plugins; imports nothing of it: `parts` says where each method lies."""

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost


class TinySchNetHost(PackagedHost):
    name = "tiny_schnet"
    distribution = "les-tiny-schnet"
    supported = ">=0.1,<0.2"
    packages = ("tiny_schnet",)
    parts = {  # noqa: RUF012
        "attach": "les_tiny_schnet.adapter:attach",
        "calculator": "les_tiny_schnet.adapter:Calculator",
        "state": "les_tiny_schnet.adapter:state",
        "rebuild": "les_tiny_schnet.adapter:rebuild",
        "train": "les_tiny_schnet.adapter:train",
        "contract": "les_tiny_schnet.contract:TinySchNetContract",
    }


les_hosts = brings(TinySchNetHost())
