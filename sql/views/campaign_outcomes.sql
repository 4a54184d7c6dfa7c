-- One user of one version of a campaign's list, except the suppressed: what happened afterwards.
--
-- ds               The night whose scores the list uses.
-- campaign_id      The campaign.
-- version          The version of the list.
-- user_id          The user.
-- arm              target, control or holdout.
-- rank             1 is the highest expected value.
-- goal             The stage that the campaign is judged by.
-- p_goal           Calibrated probability of the goal if texted, 0 to 1.
-- band_goal        Band of the goal's score, 1 to 10; 10: best tenth.
-- expected_value   Sum of worth × probability, less the SMS, in money.
-- send_on          The day the messages go out.
-- sms_cost         Cost of one message, in money.
-- is_measured      Whether outcomes count for this version: the newest exported one, else the newest.
-- outcome_<stage>  1 if <stage> is dated within its window, in calendar days from send_on on, else 0; null until
--                  mature. The same for every arm, texted or not (intention to treat).
-- mature_<stage>   Whether <stage>'s window has landed completely.
-- texted           Whether any campaign's message went out to the user within the longest of the stages' windows.
{% set longest = stages | map(attribute="window_days") | max %}
WITH listed AS (
  SELECT
    t.*,
    l.is_measured
    {% for stage in stages %}
    , l.mature_{{ stage.name }}
    {% endfor %}
  FROM targets AS t
  JOIN campaign_lists AS l ON l.ds = t.ds AND l.campaign_id = t.campaign_id AND l.version = t.version
  WHERE t.arm IN ('target', 'control', 'holdout')
),
reached AS (
  SELECT
    t.ds,
    t.campaign_id,
    t.version,
    t.user_id,
    max(CASE WHEN a.event = 'exposure' THEN 1 ELSE 0 END) AS texted
    {% for stage in stages %}
    , max(
        CASE WHEN a.event = '{{ stage.name }}' AND a.event_date <= t.send_on + {{ stage.window_days }} THEN 1 ELSE 0 END
      ) AS reached_{{ stage.name }}
    {% endfor %}
  FROM listed AS t
  JOIN activity AS a
    ON a.user_id = t.user_id
    AND a.event_date >= t.send_on
    AND a.event_date <= t.send_on + {{ longest }}
  GROUP BY t.ds, t.campaign_id, t.version, t.user_id
)
SELECT
  t.ds,
  t.campaign_id,
  t.version,
  t.user_id,
  t.arm,
  t.rank,
  t.goal,
  t.p_goal,
  t.band_goal,
  t.expected_value,
  t.send_on,
  t.sms_cost,
  t.is_measured,
  {% for stage in stages %}
  CASE WHEN t.mature_{{ stage.name }} THEN coalesce(r.reached_{{ stage.name }}, 0) END AS outcome_{{ stage.name }},
  t.mature_{{ stage.name }},
  {% endfor %}
  coalesce(r.texted, 0) = 1 AS texted
FROM listed AS t
LEFT JOIN reached AS r
  ON r.ds = t.ds AND r.campaign_id = t.campaign_id AND r.version = t.version AND r.user_id = t.user_id
