-- One row a night of which anything is on record: what it took in, and what its checks said.
--
-- ds
-- rows_in, rows_out, duplicates, quarantined
--                    the source's rows of the latest landing that went well; null where none did
-- quarantined_share  of rows_in
-- checks, checks_warned, checks_failed
--                    expectations by their latest audit; a range landed as one was checked as one, at its last night
-- warnings           lines of warning of each stage's latest run, those of its audits among them
WITH latest AS (
  SELECT *, row_number() OVER (PARTITION BY ds, stage ORDER BY started_at DESC) AS recency FROM runs
),
landed AS (
  SELECT *, row_number() OVER (PARTITION BY ds ORDER BY started_at DESC) AS recency
  FROM runs
  WHERE stage = 'ingest' AND status = 'ok'
),
checked AS (
  SELECT *, max(checked_at) OVER (PARTITION BY ds, audited) AS last_checked_at FROM audits
),
told AS (
  SELECT
    ds,
    sum(CASE WHEN warnings = '' THEN 0 ELSE 1 + length(warnings) - length(replace(warnings, chr(10), '')) END)
      AS warnings
  FROM latest
  WHERE recency = 1
  GROUP BY ds
),
counted AS (
  SELECT
    ds,
    count(*) AS checks,
    sum(CASE WHEN status = 'warning' THEN 1 ELSE 0 END) AS checks_warned,
    sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS checks_failed
  FROM checked
  WHERE checked_at = last_checked_at
  GROUP BY ds
)
SELECT
  told.ds,
  landed.rows_in,
  landed.rows_out,
  landed.duplicates,
  landed.quarantined,
  CASE WHEN landed.rows_in > 0 THEN landed.quarantined / CAST(landed.rows_in AS DOUBLE) END AS quarantined_share,
  CAST(coalesce(counted.checks, 0) AS BIGINT) AS checks,
  CAST(coalesce(counted.checks_warned, 0) AS BIGINT) AS checks_warned,
  CAST(coalesce(counted.checks_failed, 0) AS BIGINT) AS checks_failed,
  CAST(told.warnings AS BIGINT) AS warnings
FROM told
LEFT JOIN landed ON landed.ds = told.ds AND landed.recency = 1
LEFT JOIN counted ON counted.ds = told.ds
