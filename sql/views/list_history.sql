-- One version of one campaign's list.
--
-- columns  campaign_id, ds, version, made_at, send_on, goal, model_version
--          targets, controls, holdouts, suppressed: users of each arm
--          expected_value: summed over the targets, in the campaign's currency; sms_cost: of all their messages
--          exports: how often it was exported; exported_at: when first, null if never
WITH lists AS (
  SELECT
    campaign_id,
    ds,
    version,
    max(made_at) AS made_at,
    max(send_on) AS send_on,
    max(goal) AS goal,
    max(model_version) AS model_version,
    count(*) FILTER (WHERE arm = 'target') AS targets,
    count(*) FILTER (WHERE arm = 'control') AS controls,
    count(*) FILTER (WHERE arm = 'holdout') AS holdouts,
    count(*) FILTER (WHERE arm = 'suppressed') AS suppressed,
    coalesce(sum(expected_value) FILTER (WHERE arm = 'target'), 0) AS expected_value,
    coalesce(sum(sms_cost) FILTER (WHERE arm = 'target'), 0) AS sms_cost
  FROM targets
  GROUP BY campaign_id, ds, version
),
exported AS (
  SELECT campaign_id, ds, version, count(*) AS exports, min(exported_at) AS exported_at
  FROM exports
  GROUP BY campaign_id, ds, version
)
SELECT lists.*, coalesce(exported.exports, 0) AS exports, exported.exported_at
FROM lists
LEFT JOIN exported
  ON exported.campaign_id = lists.campaign_id AND exported.ds = lists.ds AND exported.version = lists.version
