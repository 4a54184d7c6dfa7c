-- The features of every (user_id, as_of) of a spine; the one text for training and for scoring.
--
-- in   spine(user_id, as_of), distinct; a night's brings the attributes along, as of its one date
--      activity(landed_on, user_id, event, event_date, n)
--      users(landed_on, user_id, attributes), unless the spine has them
-- out  the spine with counts by event and window, days since each event, and the user's attributes
--
-- Both clocks hold: a tile or a profile counts only if it landed, and its events happened, at or before as_of.
WITH
{% if attributes and not spine_has_attributes %}
latest AS (
  SELECT
    s.user_id,
    s.as_of,
    max_by(struct({% for name in attributes %}u.{{ name }}{{ ", " if not loop.last }}{% endfor %}), u.landed_on) AS profile
  FROM spine AS s
  LEFT JOIN users AS u ON u.user_id = s.user_id AND u.landed_on <= s.as_of
  GROUP BY s.user_id, s.as_of
),
profiled AS (
  SELECT user_id, as_of, profile.* FROM latest
)
{% else %}
profiled AS (
  SELECT * FROM spine
)
{% endif %}
SELECT
  s.user_id,
  s.as_of,
  {% for event in events %}
  {% for days in windows_days %}
  coalesce(sum(CASE WHEN a.event = '{{ event }}' AND a.event_date > date_sub(s.as_of, {{ days }}) THEN a.n END), 0)
    AS {{ event }}_n_{{ days }}d,
  {% endfor %}
  datediff(s.as_of, max(CASE WHEN a.event = '{{ event }}' THEN a.event_date END)) AS {{ event }}_days_since
  {{- "," if not loop.last }}
  {% endfor %}
  {% for name in attributes %}
  , s.{{ name }}
  {% endfor %}
FROM profiled AS s
LEFT JOIN activity AS a
  ON a.user_id = s.user_id
  AND a.landed_on <= s.as_of
  AND a.event_date <= s.as_of
  AND a.event_date > date_sub(s.as_of, {{ windows_days | max }})
GROUP BY s.user_id, s.as_of{% for name in attributes %}, s.{{ name }}{% endfor %}

