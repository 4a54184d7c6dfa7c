-- One row an arm and band of a version of a campaign's list; where band_goal is null, of all bands together.
--
-- ds, campaign_id, version, goal, send_on, is_measured, arm (target, control or holdout), band_goal
-- users            in this arm and band
-- texted           of them, whom any campaign's message went out to in the stages' longest window
-- mature_<stage>   users whose outcome is known: all of them, or none yet
-- outcomes_<stage> of these, who got there within the stage's window, of calendar days from send_on on
-- rate_<stage>     their share; null until it is known
SELECT
  ds,
  campaign_id,
  version,
  goal,
  send_on,
  is_measured,
  arm,
  band_goal,
  count(*) AS users,
  count(*) FILTER (WHERE texted) AS texted
  {% for stage in stages %}
  , count(outcome_{{ stage.name }}) AS mature_{{ stage.name }}
  , CAST(sum(outcome_{{ stage.name }}) AS BIGINT) AS outcomes_{{ stage.name }}
  , avg(CAST(outcome_{{ stage.name }} AS DOUBLE)) AS rate_{{ stage.name }}
  {% endfor %}
FROM campaign_outcomes
GROUP BY GROUPING SETS (
  (ds, campaign_id, version, goal, send_on, is_measured, arm, band_goal),
  (ds, campaign_id, version, goal, send_on, is_measured, arm)
)
