"""The status that `funnel models` shows of a version: from the registry and the verdict's tag, never from its words."""

from datetime import date

import pytest

from pipeline.models.last_known import Registered
from pipeline.models.listing import status_of
from pipeline.models.tracking import TrainingRun

AS_OF = date(2026, 3, 1)


def evaluated(**tags: str) -> TrainingRun:
    return TrainingRun("v1", "id", AS_OF, "artifacts", tags, {})


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ({}, "candidate"),
        ({"promoted": "false", "verdict": "in other words"}, "refused"),
        ({"promoted": "true", "verdict": "not promoted: yet"}, "candidate"),
    ],
)
def test_a_verdict_counts_by_its_tag(tags: dict[str, str], status: str) -> None:
    assert status_of(Registered("v1", AS_OF, "1"), evaluated(**tags), None) == status


def test_the_registry_comes_before_the_verdict() -> None:
    refused = evaluated(promoted="false")
    promoted = Registered("v1", AS_OF, "1", promoted_at="2026-03-02T00:00:00")
    withdrawn = Registered("v1", AS_OF, "1", promoted_at="2026-03-02T00:00:00", withdrawn_at="2026-03-03T00:00:00")
    assert status_of(promoted, refused, "v1") == "champion"
    assert status_of(promoted, refused, "v2") == "promoted"
    assert status_of(withdrawn, refused, "v2") == "withdrawn"
