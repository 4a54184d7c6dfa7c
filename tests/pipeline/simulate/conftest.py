"""Two simulated companies, which the tests only read."""

import pytest

from pipeline.simulate.simulation import Simulation
from tests.support.simulated import NOISY, Company


@pytest.fixture(scope="package")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    return Company.simulated(NOISY, tmp_path_factory.mktemp("company") / "out")


@pytest.fixture(scope="package")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """Every event keeps its campaign, so that labels can be recomputed exactly."""
    simulation = Simulation(users=2000, days=60, untracked_share=0.0, seed=11)
    return Company.simulated(simulation, tmp_path_factory.mktemp("tracked") / "out")
