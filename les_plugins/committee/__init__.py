"""Several models of one material as one calculator, whose results carry the spread between them.

`Committee` is the calculator, `description` the file that names its members, `remote` a member in another environment.
"""

from les_plugins.committee.calculator import Committee, std_of
from les_plugins.committee.description import SUFFIX, Member, is_committee, read, write
from les_plugins.committee.remote import RemoteCalculator

__all__ = ["SUFFIX", "Committee", "Member", "RemoteCalculator", "is_committee", "read", "std_of", "write"]
