"""What `pipeline/engines/templates.py` adds to Jinja, for the linter of SQL."""

from pipeline.engines.templates import literal, quote

SQLFLUFF_JINJA_FILTERS = {"literal": literal, "quote": quote}
