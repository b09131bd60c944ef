"""Exact nearest neighbors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verbspace.evaluation import topk as module
from verbspace.evaluation.topk import blocked_topk, exact_topk


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 3), count=st.integers(1, 400), k=st.integers(1, 6), num_values=st.integers(1, 50),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_blocked_topk_matches_a_stable_sort(rows: int, count: int, k: int, num_values: int, seed: int) -> None:
    values = torch.randint(num_values, (rows, count), generator=torch.Generator().manual_seed(seed)).float()
    k = min(k, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", 7)
        found, indices = blocked_topk(values, k)
    expected, index = values.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found, expected[:, :k])
    assert torch.equal(indices, index[:, :k])


@pytest.mark.parametrize("queries", [1, 5])
def test_chunks_and_threads_do_not_change_the_result(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    bank, vectors = torch.randn(9000, 8, generator=generator), torch.randn(queries, 8, generator=generator)
    values, index = (vectors @ bank.T).sort(dim=1, descending=True, stable=True)
    monkeypatch.setattr(module, "_MAX_SIMILARITIES", 2 * 9000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found, indices = exact_topk(bank, vectors, 10)
    torch.testing.assert_close(found, values[:, :10])
    assert torch.equal(indices, index[:, :10])
    assert exact_topk(bank[:4], vectors, 10)[1].shape == (queries, 4)
