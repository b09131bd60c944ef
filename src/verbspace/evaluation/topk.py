"""The nearest of many embeddings, exactly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

_MAX_SIMILARITIES = 2**24  # similarities held at once, of some queries to the whole bank
_BLOCK = 1024  # of a row's entries, the largest decides whether the block is looked into


def exact_topk(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest inner products (Q, k) of queries (Q, D) with a bank's vectors (N, D), largest first, and their
    rows.

    Of equal ones the first rows are taken: nothing is left to chance. k is cut to N. Memory holds a fixed number of
    products at once, however many queries there are.
    """
    step = max(1, _MAX_SIMILARITIES // max(len(bank), 1))
    parts = [blocked_topk(_inner_products(bank, part), min(k, len(bank))) for part in torch.split(queries, step)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def blocked_topk(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (Q, N) and their places; of equal ones the first."""
    blocks = rows.shape[1] // _BLOCK
    if blocks <= 4 * k:
        return _stable_topk(rows, k)
    # The k largest are in the k blocks whose own largest are largest: the rest need not be sorted. A block counts by
    # its place where maxima are equal, so the first of equals stay the first.
    whole, rest = rows[:, : blocks * _BLOCK].view(len(rows), blocks, _BLOCK), rows[:, blocks * _BLOCK :]
    chosen = _stable_topk(whole.amax(2), k)[1].sort(1).values
    inside = whole.gather(1, chosen[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    places = (chosen[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=rows.device)).flatten(1)
    tail = torch.arange(blocks * _BLOCK, rows.shape[1], device=rows.device).expand(len(rows), -1)
    values, index = _stable_topk(torch.cat([inside, rest], 1), k)
    return values, torch.cat([places, tail], 1).gather(1, index)


def _inner_products(bank: Tensor, queries: Tensor) -> Tensor:
    threads = torch.get_num_threads()
    if len(queries) > 1 or bank.device.type != "cpu" or bank.numel() < _MAX_SIMILARITIES or threads == 1:
        return queries @ bank.T
    # A matrix by one vector is computed by one thread, and memory feeds more.
    with ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(lambda part: part @ queries[0], bank.chunk(threads))))[None]


def _stable_topk(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, index = rows.topk(k, dim=1)
    # topk leaves open which of equal values it takes, and in which order. That matters only where there are equals
    # within the first k or across the k-th place, and a stable sort of whole rows is too slow for all.
    tied = (rows >= values[:, -1:]).sum(dim=1) > k
    tied |= (values[:, 1:] == values[:, :-1]).any(dim=1)
    if tied.any():
        ordered, places = rows[tied].sort(dim=1, descending=True, stable=True)
        values[tied], index[tied] = ordered[:, :k], places[:, :k]
    return values, index
