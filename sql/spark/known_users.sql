-- Every user known by ds, one row each: all the history a night needs besides the activity of the longest window.
--
-- in   users(landed_on, user_id, consent, consent_at, time_zone, attributes), if the source has users; consent_at and
--        time_zone if it maps updated_at and a time zone
--      activity(landed_on, user_id, event, event_date)
--      earlier: this query's result as of an earlier date, if any; users and activity then hold what landed since
-- out  user_id, unique
--      profile_on   when the newest profile landed; null: none has
--      consent      the latest one given: a later profile without consent does not undo a withdrawal
--      consent_order when that was, by updated_at if the source maps it: a consent that lands late, but was given before a
--                   withdrawal, does not undo it. Null: the source gives no consent
--      time_zone    the latest one given, if the source maps it
--      attributes   the newest profile's; of those that are static, the first value given
--      seen_on      the first local date of a landed event; where the source has users, of one of the last stage
--      completed_on the first local date of a landed event of the last stage
--
-- Both dates may lie after ds if the source runs ahead of its landing day; the night of that date will need them.
{% set changing = attributes | reject("in", static) | list %}
{% set day = 86400000000 %}
WITH told AS (
  {% if has_users %}
  SELECT
    user_id,
    landed_on AS profile_on,
    consent,
    {% if has_update_times %}
    -- Nothing is changed after the day it lands on; two days leave room for zones.
    least(
      coalesce(unix_micros(consent_at), (datediff(landed_on, DATE'1970-01-01') + 1) * {{ day }}),
      (datediff(landed_on, DATE'1970-01-01') + 2) * {{ day }}
    ) AS consent_order,
    {% endif %}
    {% if has_time_zones %}
    time_zone,
    {% endif %}
    {% for name in attributes %}
    {{ name | quote }},
    {% endfor %}
    CAST(NULL AS DATE) AS seen_on,
    CAST(NULL AS DATE) AS completed_on
  FROM users
  WHERE landed_on <= DATE'{{ ds }}'
  UNION ALL
  {% endif %}
  SELECT
    user_id,
    CAST(NULL AS DATE) AS profile_on,
    CAST(NULL AS BOOLEAN) AS consent,
    {% if has_update_times %}
    CAST(NULL AS BIGINT) AS consent_order,
    {% endif %}
    {% if has_time_zones %}
    CAST(NULL AS STRING) AS time_zone,
    {% endif %}
    {% for name in attributes %}
    NULL AS {{ name | quote }},
    {% endfor %}
    event_date AS seen_on,
    CASE WHEN event = '{{ last_stage }}' THEN event_date END AS completed_on
  FROM activity
  WHERE landed_on <= DATE'{{ ds }}'{% if has_users %} AND event = '{{ last_stage }}'{% endif %}

  {% if has_earlier %}
  -- Older than everything that landed since, so its profiles need no special treatment.
  UNION ALL
  SELECT
    user_id, profile_on, consent, {% if has_update_times %}consent_order, {% endif %}
    {% if has_time_zones %}time_zone, {% endif %}
    {% for name in attributes %}{{ name | quote }}, {% endfor %}seen_on, completed_on
  FROM earlier
  {% endif %}
),
latest AS (
  SELECT
    user_id,
    max(profile_on) AS profile_on,
    {% if has_update_times %}
    max(consent_order) FILTER (WHERE consent) AS given_at,
    max(consent_order) FILTER (WHERE NOT consent) AS withdrawn_at,
    {% else %}
    max_by(consent, profile_on) FILTER (WHERE consent IS NOT NULL) AS consent,
    {% endif %}
    {% if has_time_zones %}
    max_by(time_zone, profile_on) FILTER (WHERE time_zone IS NOT NULL) AS time_zone,
    {% endif %}
    {% if changing %}
    max_by(struct({{ changing | map('quote') | join(', ') }}), profile_on) AS profile,
    {% endif %}
    {% for name in static %}
    min_by({{ name | quote }}, profile_on) FILTER (WHERE {{ name | quote }} IS NOT NULL) AS {{ name | quote }},
    {% endfor %}
    min(seen_on) AS seen_on,
    min(completed_on) AS completed_on
  FROM told
  GROUP BY user_id
)
SELECT
  user_id,
  profile_on,
  {% if has_update_times %}
  -- At one instant, the withdrawal holds.
  CASE
    WHEN given_at IS NULL AND withdrawn_at IS NULL THEN NULL
    ELSE coalesce(given_at > withdrawn_at, withdrawn_at IS NULL)
  END AS consent,
  greatest(given_at, withdrawn_at) AS consent_order,
  {% else %}
  consent,
  {% endif %}
  {% if has_time_zones %}time_zone, {% endif %}
  {% for name in attributes %}{{ "profile." if name in changing }}{{ name | quote }}, {% endfor %}seen_on, completed_on
FROM latest
