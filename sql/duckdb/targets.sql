-- One campaign's list: each user known as of $ds once, with an arm and the reason for it. DuckDB's dialect.
--
-- in   known_users, as of $ds
--      user_scores(ds, user_id, p_, raw_, band_<stage>, model_version)
--      zones(time_zone, is_quiet, capped_from, capped_until): for each value of known_users.time_zone, null included,
--        whether the message would arrive in quiet hours, and between which instants messages count for the cap
--      events(landed_on, event_id, user_id, event, event_time), targets and exports, if there is a frequency cap
-- $    ds, campaign, salt, holdout_share, control_share, sms_cost, worth_<stage>; messages, landed_from with a cap;
--      texts and beyond with a limit: the largest number of targets, and the reason given to users past it
-- out  the columns of targets that say who is on the list and why, best first; and drawn, the number from 0 to 1 that
--      is below control_share for the control group (null outside the target and control groups)
WITH known AS (
  SELECT users.user_id, users.consent, users.completed_on, zones.is_quiet, zones.capped_from, zones.capped_until
  FROM known_users AS users
  JOIN zones ON {% if has_time_zones %}users.time_zone IS NOT DISTINCT FROM zones.time_zone{% else %}true{% endif %}

  -- Where the source has users, a completion alone does not make a user known.
  WHERE {% if has_users %}users.profile_on IS NOT NULL{% else %}users.seen_on <= $ds{% endif %}

),
{% if has_cap %}
messages AS (
  SELECT user_id, sum(messages) AS messages
  FROM (
    SELECT user_id, count(DISTINCT (event_id, event_time)) AS messages
    FROM events JOIN known USING (user_id)
    WHERE landed_on BETWEEN $landed_from AND $ds AND event = 'exposure'
      AND event_time >= capped_from AND event_time < capped_until
    GROUP BY user_id
    UNION ALL
    -- Other campaigns' lists for the same day, in the newest exported version.
    SELECT user_id, count(*)
    FROM targets
    JOIN (SELECT campaign_id, max(version) AS version FROM exports WHERE ds = $ds GROUP BY campaign_id) AS sent
      USING (campaign_id, version)
    WHERE ds = $ds AND campaign_id <> $campaign AND arm = 'target'
    GROUP BY user_id
  )
  GROUP BY user_id
),
{% endif %}
scored AS (
  SELECT
    *,
    {% for stage in worth %}$worth_{{ stage }} * p_{{ stage }} + {% endfor %}0 - $sms_cost AS expected_value
  FROM user_scores
  WHERE ds = $ds
),
checked AS (
  SELECT
    user_id,
    expected_value,
    p_{{ goal }} AS p_goal,
    band_{{ goal }} AS band_goal,
    raw_{{ goal }} AS raw_goal,
    model_version,
    CASE
      -- Only false withdraws consent; null does not.
      WHEN consent = false THEN 'consent_withdrawn'
      WHEN completed_on <= $ds THEN 'already_completed'
      WHEN expected_value IS NULL THEN 'not_scored'
      {% if has_cap %}
      WHEN coalesce(messages, 0) + 1 > $messages THEN 'frequency_cap'
      {% endif %}
      WHEN is_quiet THEN 'quiet_hours'
      {% for stage, band in min_band.items() %}
      WHEN band_{{ stage }} < {{ band }} THEN 'below_min_band'
      {% endfor %}
      WHEN expected_value <= 0 THEN 'not_worth_it'
    END AS ruled_out,
    -- 52 bits of the hash: a double holds them exactly.
    CAST('0x' || substr(sha256($salt || '|' || user_id), 1, 13) AS BIGINT) / pow(2, 52) AS holdout_draw,
    CAST('0x' || substr(sha256($salt || '|' || $campaign || '|' || user_id), 1, 13) AS BIGINT) / pow(2, 52) AS drawn
  FROM known
  LEFT JOIN scored USING (user_id)
  {% if has_cap %}
  LEFT JOIN messages USING (user_id)
  {% endif %}
),
ranked AS (
  SELECT
    *,
    CASE
      WHEN ruled_out IS NOT NULL THEN 'suppressed'
      WHEN holdout_draw < $holdout_share THEN 'holdout'
      WHEN drawn < $control_share THEN 'control'
      ELSE 'target'
    END AS group_,
    CASE WHEN ruled_out IS NULL THEN
      row_number() OVER (PARTITION BY ruled_out IS NULL ORDER BY expected_value DESC, raw_goal DESC, user_id)
    END AS rank
  FROM checked
),
{% if has_limit %}
-- Control and holdout users stay on the list up to the last target: those past it would not have been texted anyway.
last_target AS (
  SELECT rank AS last_rank FROM ranked WHERE group_ = 'target' ORDER BY rank LIMIT 1 OFFSET $texts - 1
),
{% endif %}
decided AS (
  SELECT
    *,
    {% if has_limit %}
    coalesce(rank > (SELECT last_rank FROM last_target), false) AS is_beyond
    {% else %}
    false AS is_beyond
    {% endif %}
  FROM ranked
)
SELECT
  $campaign AS campaign_id,
  user_id,
  CASE WHEN is_beyond THEN 'suppressed' ELSE group_ END AS arm,
  CASE
    WHEN ruled_out IS NOT NULL THEN ruled_out
    {% if has_limit %}
    WHEN is_beyond THEN $beyond
    {% endif %}
    WHEN group_ = 'target' THEN 'selected'
    ELSE group_
  END AS reason,
  rank,
  expected_value,
  '{{ goal }}' AS goal,
  p_goal,
  band_goal,
  CAST($ds + 1 AS DATE) AS send_on,
  $sms_cost AS sms_cost,
  model_version,
  CASE WHEN group_ IN ('control', 'target') THEN drawn END AS drawn
FROM decided
ORDER BY rank NULLS LAST, user_id
