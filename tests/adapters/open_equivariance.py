"""In the place of OpenEquivariance, which cannot even be imported without a GPU: what MACE and NequIP call of it.

The kernel is e3nn's tensor product on the CPU. What the hosts rely on is as in OpenEquivariance 0.7: features of atoms
come and go in e3nn's layout (mul_ir), `rows` are receivers and `cols` senders, it has no tensors in a state dict, and a
copy is made anew of the arguments, without what a host has put on it.
"""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from e3nn import o3


@dataclass
class TPProblem:
    """A tensor product as e3nn describes it."""

    irreps_in1: Any
    irreps_in2: Any
    irreps_out: Any
    instructions: list[tuple]
    irrep_dtype: torch.dtype
    weight_dtype: torch.dtype
    shared_weights: bool = True
    internal_weights: bool = False

    @property
    def weight_numel(self) -> int:
        return self.as_e3nn().weight_numel

    def as_e3nn(self) -> o3.TensorProduct:
        irreps = self.irreps_in1, self.irreps_in2, self.irreps_out
        product = o3.TensorProduct(*irreps, self.instructions, shared_weights=False, internal_weights=False)
        return product.to(self.irrep_dtype)


class TensorProductConv(torch.nn.Module):
    """The tensor product of every edge, added up at its receiver."""

    calls = 0

    def __init__(self, problem: TPProblem, **options: Any) -> None:
        super().__init__()
        self.input_args = {"problem": problem, **options}
        self.product = (problem.as_e3nn(),)  # in a tuple, so that it is none of the module's own

    def __getstate__(self) -> dict[str, Any]:
        return self.input_args

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def forward(self, x, y, weights, rows, cols):
        TensorProductConv.calls += 1
        messages = self.product[0](x[cols], y, weights)
        return messages.new_zeros(len(x), messages.shape[1]).index_add(0, rows, messages)


def installed(monkeypatch) -> None:
    """Python finds it under the name of the package, until the end of the test; `calls` begins at zero."""
    module = ModuleType("openequivariance")
    module.TPProblem, module.TensorProductConv = TPProblem, TensorProductConv
    module.torch_to_oeq_dtype = lambda dtype: dtype
    monkeypatch.setitem(sys.modules, "openequivariance", module)
    monkeypatch.setattr(TensorProductConv, "calls", 0)
