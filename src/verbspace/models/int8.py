"""Linear layers in 8-bit integers, which embed faster on CPUs that multiply them (VNNI, AMX) but have no bf16.

A weight is an int8 number times the scale of its output; an input is an int8 number times the scale of its row, which
is computed when the row arrives (dynamic quantization by row and column, as in LLM.int8(), Dettmers et al., NeurIPS
2022, without its 16-bit outliers). Products are summed in int32. Everything else remains in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)

_BLOCK_NUMBERS = 2**18  # per block of rows: 1 MB, which a core's cache holds from one operation to the next
_TINY = 1e-12


class Int8Linear(nn.Module):
    """`nn.Linear` with int8 products, for inference on a CPU. The bias is shared with the original layer."""

    weight: Tensor  # int8 (inputs, outputs)
    scale: Tensor  # float32 (outputs,)
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp_min(_TINY) / max_weight()
        self.register_buffer("weight", (weight / scale[:, None]).round_().to(torch.int8).t())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs), both float32. No gradients are computed."""
        rows = x.reshape(-1, x.shape[-1])
        quantized, row_scale = _quantize_rows(rows)
        products = torch._int_mm(quantized, self.weight)
        out = rows.new_empty(products.shape)
        for part, product, scale in _blocks(out, products, row_scale):
            part.copy_(product).mul_(self.scale).mul_(scale)
            if self.bias is not None:
                part.add_(self.bias)
        return out.view(*x.shape[:-1], len(self.scale))


def _quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (N, D) in int8, and their scales (N, 1)."""
    quantized = torch.empty(rows.shape, dtype=torch.int8)
    scale = rows.new_empty(len(rows), 1)
    for block, target, block_scale in _blocks(rows, quantized, scale):
        largest = torch.maximum(block.amax(1, keepdim=True), block.amin(1, keepdim=True).neg_())
        torch.div(largest.clamp_min_(_TINY), 127, out=block_scale)
        target.copy_((block * block_scale.reciprocal()).round_())
    return quantized, scale


def _blocks(first: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors along the first axis into blocks that fit the cache of a core."""
    num_rows = max(1, _BLOCK_NUMBERS // first.shape[1])
    yield from zip(*(torch.split(each, num_rows) for each in (first, *others)), strict=True)


def is_int8(module: nn.Module) -> bool:
    """Return whether a module has layers in int8."""
    return any(isinstance(child, Int8Linear) for child in module.modules())


def convert_to_int8(module: _Module, parts: Iterable[str]) -> _Module:
    """Replace the linear layers of some submodules, given by name, by `Int8Linear`, in place; return the module.

    Raises:
        ValueError: The module is not on the CPU.
    """
    device = next(module.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"int8 is for CPUs, and the encoder is on {device}; use bf16")
    for part in parts:
        _replace_linears(module.get_submodule(part))
    return module


def _replace_linears(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:  # not a subclass, whose forward pass may do more
            setattr(module, name, Int8Linear(child))
        else:
            _replace_linears(child)


@cache
def max_weight() -> int:
    """Return the largest weight whose products are exact: 127, or 63 on CPUs without VNNI and AMX.

    These add two products of 8 bits in 16 bits, which overflow if both are large.
    """
    extreme = torch.full((32, 32), 127, dtype=torch.int8)
    exact = torch.equal(torch._int_mm(extreme, extreme), torch.full((32, 32), 32 * 127 * 127, dtype=torch.int32))
    return 127 if exact else 63
