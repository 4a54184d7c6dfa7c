"""For notebooks: `from pipeline.analyst import connect`."""

from pipeline.analyst.connection import connect

__all__ = ["connect"]
