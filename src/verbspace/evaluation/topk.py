"""Exact nearest neighbors by inner product."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

_MAX_SIMILARITIES = 2**24  # similarities in memory at once
_BLOCK = 1024  # entries of a row that share one maximum


def exact_topk(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest inner products of each query with the vectors of a bank.

    Ties are resolved deterministically: of equal values, those with the lowest indices are taken. Memory is bounded,
    however many queries there are.

    Args:
        bank: Vectors, shape (N, D).
        queries: Queries, shape (Q, D).

    Returns:
        Inner products, largest first, and indices into the bank, both of shape (Q, min(k, N)).
    """
    step = max(1, _MAX_SIMILARITIES // max(len(bank), 1))
    parts = [blocked_topk(_inner_products(bank, part), min(k, len(bank))) for part in torch.split(queries, step)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def blocked_topk(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest values of each row of (Q, N) values, largest first, and their indices, both of shape (Q, k).

    Of equal values, those with the lowest indices are taken.
    """
    num_blocks = rows.shape[1] // _BLOCK
    if num_blocks <= 4 * k:
        return _stable_topk(rows, k)
    # The k largest values lie in the k blocks with the largest maxima, so the other blocks need no sorting. Blocks
    # with equal maxima are taken in order, so the lowest indices of equal values are kept.
    blocks, tail = rows[:, : num_blocks * _BLOCK].view(len(rows), num_blocks, _BLOCK), rows[:, num_blocks * _BLOCK :]
    selected = _stable_topk(blocks.amax(2), k)[1].sort(1).values
    candidates = blocks.gather(1, selected[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    candidate_indices = (selected[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=rows.device)).flatten(1)
    tail_indices = torch.arange(num_blocks * _BLOCK, rows.shape[1], device=rows.device).expand(len(rows), -1)
    values, order = _stable_topk(torch.cat([candidates, tail], 1), k)
    return values, torch.cat([candidate_indices, tail_indices], 1).gather(1, order)


def _inner_products(bank: Tensor, queries: Tensor) -> Tensor:
    num_threads = torch.get_num_threads()
    if len(queries) > 1 or bank.device.type != "cpu" or bank.numel() < _MAX_SIMILARITIES or num_threads == 1:
        return queries @ bank.T
    # A matrix-vector product runs on one thread, which does not use all of the memory bandwidth.
    with ThreadPoolExecutor(num_threads) as pool:
        return torch.cat(list(pool.map(lambda part: part @ queries[0], bank.chunk(num_threads))))[None]


def _stable_topk(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = rows.topk(k, dim=1)
    # topk does not define which of equal values it returns, nor their order. Rows with ties among the first k, or
    # across the k-th value, are sorted instead. Sorting all rows would be too slow.
    tied = (rows >= values[:, -1:]).sum(dim=1) > k
    tied |= (values[:, 1:] == values[:, :-1]).any(dim=1)
    if tied.any():
        sorted_values, sorted_indices = rows[tied].sort(dim=1, descending=True, stable=True)
        values[tied], indices[tied] = sorted_values[:, :k], sorted_indices[:, :k]
    return values, indices
