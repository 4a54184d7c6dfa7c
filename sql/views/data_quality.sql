-- One night on record: what it took in, and what its checks found.
--
-- ds                 The night.
-- rows_in            Rows of the source that the latest successful ingest read; null: none succeeded.
-- rows_out           Of them, those kept.
-- duplicates         Of them, those dropped because their key had landed already.
-- quarantined        Of them, those rejected.
-- quarantined_share  quarantined / rows_in, 0 to 1; null without rows.
-- checks             Expectations of the latest audits. A range landed as one was checked as one, at its last night.
-- checks_warned      Of them, those that failed with a warning.
-- checks_failed      Of them, those that failed and stopped the run.
-- warnings           Warnings of each stage's latest run, those of its audits included.
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
warned AS (
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
  warned.ds,
  landed.rows_in,
  landed.rows_out,
  landed.duplicates,
  landed.quarantined,
  CASE WHEN landed.rows_in > 0 THEN landed.quarantined / CAST(landed.rows_in AS DOUBLE) END AS quarantined_share,
  CAST(coalesce(counted.checks, 0) AS BIGINT) AS checks,
  CAST(coalesce(counted.checks_warned, 0) AS BIGINT) AS checks_warned,
  CAST(coalesce(counted.checks_failed, 0) AS BIGINT) AS checks_failed,
  CAST(warned.warnings AS BIGINT) AS warnings
FROM warned
LEFT JOIN landed ON landed.ds = warned.ds AND landed.recency = 1
LEFT JOIN counted ON counted.ds = warned.ds
