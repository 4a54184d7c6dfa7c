"""A run opens each store once, on first use."""

import pytest

from pipeline.config.settings import Settings
from pipeline.models import registry as registries
from pipeline.warehouse import warehouse as warehouses
from tests.support.company import Company


def test_stores_are_opened_once_on_first_use(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    registry, warehouse = registries.Registry, warehouses.Warehouse.of

    def open_registry(settings: Settings) -> registries.Registry:
        opened.append("registry")
        return registry(settings)

    def open_warehouse(settings: Settings) -> warehouses.Warehouse:
        opened.append("warehouse")
        return warehouse(settings)

    monkeypatch.setattr(registries, "Registry", open_registry)
    monkeypatch.setattr(warehouses.Warehouse, "of", open_warehouse)
    context = company.context()
    assert opened == []
    assert context.registry is context.registry
    assert opened == ["registry"]
    assert context.warehouse is context.warehouse
    assert opened == ["registry", "warehouse"]
    assert not (company.folder / "models").exists(), "a registry that is only looked at makes no store"
