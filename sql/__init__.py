"""The transformations as Spark SQL files with Jinja for stages and windows; `pipeline.sql_files` renders them."""
