"""One trained bundle, shared by every test that only reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from model import Bundle, ModelConfig, TrainConfig, fit
from tests.model.funnels import FEATURES, TASKS, Funnel, draw_funnel, last_rows


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, and are much slower when tests share cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def funnel() -> Funnel:
    return draw_funnel(12_000)


@pytest.fixture(scope="session")
def bundle(funnel: Funnel) -> Bundle:
    return fit(
        funnel.table,
        features=FEATURES,
        tasks=TASKS,
        held_out=last_rows(funnel.rows),
        model=ModelConfig(experts=4, expert_units=(16,), tower_units=(8,), embedding_dim=4),
        training=TrainConfig(epochs=12, device="cpu"),
        trained_on={"snapshot": 7, "as_of": "2024-03-01"},
    )
