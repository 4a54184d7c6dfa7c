-- One arm and band of one version of a campaign's list; where band_goal is null, all bands together.
--
-- ds                The night whose scores the list uses.
-- campaign_id       The campaign.
-- version           The version of the list.
-- goal              The stage that the campaign is judged by.
-- send_on           The day the messages go out.
-- is_measured       Whether outcomes count for this version: the newest exported one, else the newest.
-- arm               target, control or holdout.
-- band_goal         Band of the goal's score, 1 to 10; null: all bands.
-- users             Users in this arm and band.
-- texted            Of them, those to whom any campaign's message went out within the longest of the stages' windows.
-- mature_<stage>    Of them, those whose outcome for <stage> is known: all or none.
-- outcomes_<stage>  Of these, those who reached <stage> within its window, in calendar days from send_on on.
-- rate_<stage>      outcomes_<stage> / mature_<stage>, 0 to 1; null until mature.
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
