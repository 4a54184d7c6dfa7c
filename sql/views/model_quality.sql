-- One model version and stage on one night: how good the model's scores proved, of the outcomes known by that night.
--
-- columns  ds, model_version, stage
--          exposures, positives: messages sent the day after a score whose outcome is known, and how many brought it
--          auc: chance that one with the outcome had a higher score than one without, null where all are of one kind
--          calibration_error: mean distance of the scores from the rates that came
--          calibration_gap: distance of the positives expected from those that came, beyond chance, as a share of these
--          lift: rate of band 10 to the rate of all, null without band 10 or a positive
--          trained_as_of, held_out_auc, held_out_calibration_error: the same at training, on days held out
WITH matured AS (
  SELECT
    ds,
    model_version,
    stage,
    max(CASE WHEN name = 'matured_exposures' THEN value END) AS exposures,
    max(CASE WHEN name = 'matured_positives' THEN value END) AS positives,
    max(CASE WHEN name = 'matured_auc' THEN value END) AS auc,
    max(CASE WHEN name = 'matured_calibration_error' THEN value END) AS calibration_error,
    max(CASE WHEN name = 'matured_calibration_gap' THEN value END) AS calibration_gap,
    max(CASE WHEN name = 'matured_lift' THEN value END) AS lift
  FROM metrics
  WHERE substr(name, 1, 8) = 'matured_'
  GROUP BY ds, model_version, stage
),
trained AS (
  SELECT
    model_version,
    stage,
    max(ds) AS trained_as_of,
    max(CASE WHEN name = 'held_out_auc' THEN value END) AS held_out_auc,
    max(CASE WHEN name = 'held_out_ece' THEN value END) AS held_out_calibration_error
  FROM metrics
  WHERE name IN ('held_out_auc', 'held_out_ece') AND model_version IS NOT NULL
  GROUP BY model_version, stage
)
SELECT
  m.ds,
  m.model_version,
  m.stage,
  CAST(round(m.exposures) AS BIGINT) AS exposures,
  CAST(round(m.positives) AS BIGINT) AS positives,
  m.auc,
  m.calibration_error,
  m.calibration_gap,
  m.lift,
  t.trained_as_of,
  t.held_out_auc,
  t.held_out_calibration_error
FROM matured AS m
LEFT JOIN trained AS t ON t.model_version = m.model_version AND t.stage = m.stage
