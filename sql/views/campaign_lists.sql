-- One row a version of a campaign's list.
--
-- ds, campaign_id, version
-- goal             the stage whose outcomes decide whether it worked
-- send_on          the day its messages go out
-- is_measured      whether outcomes count for this version: the newest that was exported, else the newest
-- mature_<stage>   whether the stage's window, of calendar days from send_on on, has landed whole
WITH list AS (
  SELECT ds, campaign_id, version, max(goal) AS goal, max(send_on) AS send_on
  FROM targets
  GROUP BY ds, campaign_id, version
),
export AS (
  SELECT ds, campaign_id, max(version) AS version FROM exports GROUP BY ds, campaign_id
),
landed AS (
  SELECT max(landed_on) AS newest FROM activity
)
SELECT
  list.ds,
  list.campaign_id,
  list.version,
  list.goal,
  list.send_on,
  list.version = coalesce(export.version, max(list.version) OVER (PARTITION BY list.ds, list.campaign_id))
    AS is_measured
  {% for stage in stages %}
  , coalesce(landed.newest >= list.send_on + {{ stage.window_days }}, false) AS mature_{{ stage.name }}
  {% endfor %}
FROM list
CROSS JOIN landed
LEFT JOIN export ON export.ds = list.ds AND export.campaign_id = list.campaign_id
