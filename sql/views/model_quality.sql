-- One model version and stage on one night: how its scores held up against the outcomes known by then.
--
-- ds                          The night.
-- model_version               The model.
-- stage                       The stage.
-- exposures                   Messages sent the day after a score whose outcome is known.
-- positives                   Of them, those that led to the stage.
-- auc                         Probability that a positive scored above a negative; null if all are of one kind.
-- calibration_error           Mean distance between scores and observed rates.
-- calibration_gap             Distance of expected from observed positives beyond chance, as a share of the observed.
-- lift                        Rate of band 10 / rate of all; null without band 10 or without positives.
-- trained_as_of               The date that the model was trained as of.
-- held_out_auc                AUC at training, on the days held out.
-- held_out_calibration_error  Calibration error at training, on the days held out.
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
