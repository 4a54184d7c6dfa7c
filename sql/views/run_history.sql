-- One stage of one night: its latest run.
--
-- ds             The night.
-- stage          The stage of the pipeline.
-- status         ok or failed.
-- run_id         The run.
-- started_at     When the stage began.
-- seconds        Duration in seconds.
-- rows_in        Rows read.
-- rows_out       Rows kept or written.
-- duplicates     Rows dropped because their key had landed already.
-- quarantined    Rows rejected.
-- warnings       Number of warnings.
-- message        Why the stage failed; empty unless it did.
-- model_version  The model used or made; null: none.
-- attempts       Runs of the stage for this night so far.
WITH numbered AS (
  SELECT
    *,
    row_number() OVER (PARTITION BY ds, stage ORDER BY started_at DESC, run_id DESC) AS recency,
    count(*) OVER (PARTITION BY ds, stage) AS attempts
  FROM runs
)
SELECT
  ds,
  stage,
  status,
  run_id,
  started_at,
  seconds,
  rows_in,
  rows_out,
  duplicates,
  quarantined,
  -- One warning per line.
  CASE
    WHEN coalesce(warnings, '') = '' THEN 0
    ELSE length(warnings) - length(replace(warnings, chr(10), '')) + 1
  END AS warnings,
  message,
  model_version,
  attempts
FROM numbered
WHERE recency = 1
