"""Linear layers in 8-bit integers, which embed faster on CPUs that multiply them (VNNI, AMX) but have no bf16.

A weight is an int8 number times the scale of its output; an input is an int8 number times the scale of its row, which
is computed when the row arrives (dynamic quantization by row and column, as in LLM.int8(), Dettmers et al., NeurIPS
2022, without its 16-bit outliers). Products are summed in int32. Everything else remains in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

_BLOCK_NUMBERS = 2**18  # per block of rows: 1 MB, which a core's cache holds from one operation to the next
_TINY = 1e-12


class _CopyableEncoder(Protocol):
    """The part of `VideoEncoder` that `int8_copy` needs."""

    device: torch.device

    def copy(self: _Encoder, *, share_weights: bool) -> _Encoder: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def get_submodule(self, target: str) -> nn.Module: ...


_Encoder = TypeVar("_Encoder", bound=_CopyableEncoder)


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


def int8_copy(encoder: _Encoder, parts: Iterable[str]) -> _Encoder:
    """Copy an encoder, with `Int8Linear` in place of the linear layers of some submodules. Other weights are shared.

    A copy that this function returned is returned as it is.

    Args:
        encoder: The encoder.
        parts: Names of the submodules.

    Raises:
        ValueError: The encoder is not on the CPU.
    """
    if any(isinstance(module, Int8Linear) for module in encoder.modules()):
        return encoder
    if encoder.device.type != "cpu":
        raise ValueError(f"int8 is for CPUs, and the encoder is on {encoder.device}; use bf16")
    duplicate = encoder.copy(share_weights=True)
    for part in parts:
        _replace_linears(duplicate.get_submodule(part))
    return duplicate


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
