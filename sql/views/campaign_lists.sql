-- One version of one campaign's list: when its outcomes can be measured.
--
-- ds              The night whose scores the list uses.
-- campaign_id     The campaign.
-- version         The version of the list.
-- goal            The stage that the campaign is judged by.
-- send_on         The day the messages go out.
-- is_measured     Whether outcomes count for this version: the newest exported one, else the newest.
-- left_out        Targets who are not in the file that counts, having withdrawn consent or completed since: the newest
--                 export made before send_on had landed whole, else the first; 0 without an export.
-- mature_<stage>  Whether <stage>'s window, in calendar days from send_on on, has landed completely; a day that landed
--                 without a row counts.
WITH list AS (
  SELECT ds, campaign_id, version, max(goal) AS goal, max(send_on) AS send_on
  FROM targets
  GROUP BY ds, campaign_id, version
),
export AS (
  SELECT ds, campaign_id, max(version) AS version FROM exports GROUP BY ds, campaign_id
),
-- Later exports tell of users who completed because they were texted.
file AS (
  SELECT
    exports.ds,
    exports.campaign_id,
    exports.version,
    coalesce(
      max_by(coalesce(withdrawn, 0) + coalesce(completed, 0), exported_at)
        FILTER (WHERE landed_until IS NULL OR landed_until < list.send_on),
      min_by(coalesce(withdrawn, 0) + coalesce(completed, 0), exported_at)
    ) AS left_out
  FROM exports
  JOIN list ON list.ds = exports.ds AND list.campaign_id = exports.campaign_id AND list.version = exports.version
  GROUP BY exports.ds, exports.campaign_id, exports.version
),
landed AS (
  SELECT greatest(
    (SELECT max(landed_on) FROM activity),
    (SELECT max(ds) FROM runs WHERE stage = 'activity' AND status = 'ok')
  ) AS newest
)
SELECT
  list.ds,
  list.campaign_id,
  list.version,
  list.goal,
  list.send_on,
  list.version = coalesce(export.version, max(list.version) OVER (PARTITION BY list.ds, list.campaign_id))
    AS is_measured,
  coalesce(file.left_out, 0) AS left_out
  {% for stage in stages %}
  , coalesce(landed.newest >= list.send_on + {{ stage.window_days }}, false) AS mature_{{ stage.name }}
  {% endfor %}
FROM list
CROSS JOIN landed
LEFT JOIN export ON export.ds = list.ds AND export.campaign_id = list.campaign_id
LEFT JOIN file ON file.ds = list.ds AND file.campaign_id = list.campaign_id AND file.version = list.version
