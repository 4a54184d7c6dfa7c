-- One version of one campaign's list: its arms, value and exports.
--
-- campaign_id     The campaign.
-- ds              The night whose scores the list uses.
-- version         The version of the list.
-- made_at         When the version was written.
-- send_on         The day the messages go out.
-- goal            The stage that the campaign is judged by.
-- model_version   The model behind the scores.
-- targets         Users in arm target.
-- controls        Users in arm control.
-- holdouts        Users in arm holdout.
-- suppressed      Users in arm suppressed.
-- expected_value  Sum over the targets, in money.
-- sms_cost        Cost of all messages, in money.
-- left_out        Targets left out of the newest exported file: they had withdrawn consent or completed; null: no export.
-- exports         How often the version was exported.
-- exported_at     When it was first exported; null: never.
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
  SELECT
    campaign_id,
    ds,
    version,
    max_by(coalesce(withdrawn, 0) + coalesce(completed, 0), exported_at) AS left_out,
    count(*) AS exports,
    min(exported_at) AS exported_at
  FROM exports
  GROUP BY campaign_id, ds, version
)
SELECT lists.*, exported.left_out, coalesce(exported.exports, 0) AS exports, exported.exported_at
FROM lists
LEFT JOIN exported
  ON exported.campaign_id = lists.campaign_id AND exported.ds = lists.ds AND exported.version = lists.version
