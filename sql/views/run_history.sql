-- One stage of one night: its latest run.
--
-- columns  ds, stage, status ('ok' or 'failed'), run_id, started_at, seconds
--          rows_in, rows_out, duplicates, quarantined
--          warnings: how many; message: why it failed; model_version; attempts: runs of the stage on this night so far
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
  -- One a line.
  CASE
    WHEN coalesce(warnings, '') = '' THEN 0
    ELSE length(warnings) - length(replace(warnings, chr(10), '')) + 1
  END AS warnings,
  message,
  model_version,
  attempts
FROM numbered
WHERE recency = 1
