-- The features of every (user_id, as_of) of a spine; the one text for training and for scoring.
--
-- in   spine(user_id, as_of), distinct
--      activity(landed_on, user_id, event, event_date, n)
--      users(landed_on, user_id, attributes)
-- out  the spine with counts by event and window, days since each event, and the user's attributes
--
-- Both clocks hold: a tile or a profile counts only if it landed, and its events happened, at or before as_of.
WITH behaviour AS (
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
  FROM spine AS s
  LEFT JOIN activity AS a
    ON a.user_id = s.user_id
    AND a.landed_on <= s.as_of
    AND a.event_date <= s.as_of
    AND a.event_date > date_sub(s.as_of, {{ windows_days | max }})
  GROUP BY s.user_id, s.as_of
)
{% if attributes %}
, profile AS (
  SELECT
    s.user_id,
    s.as_of,
    max_by(struct({% for name in attributes %}u.{{ name }}{{ ", " if not loop.last }}{% endfor %}), u.landed_on) AS latest
  FROM spine AS s
  JOIN users AS u ON u.user_id = s.user_id AND u.landed_on <= s.as_of
  GROUP BY s.user_id, s.as_of
)
SELECT b.*{% for name in attributes %}, p.latest.{{ name }}{% endfor %}

FROM behaviour AS b
LEFT JOIN profile AS p ON p.user_id = b.user_id AND p.as_of = b.as_of
{% else %}
SELECT * FROM behaviour
{% endif %}
