"""SQL as Jinja templates, by engine: `spark`, `duckdb`, and `views` for both; see `pipeline.engines.templates`."""
