"""Where the tests find what is no code of theirs."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
SHARED_DATA = Path(os.environ.get("FUNNEL_TEST_DATA", ROOT.parent / "shared" / "data"))
"""The folder of the real data sets, which a checkout may lack."""
