-- The features of each (user_id, as_of) of a spine, for training and scoring alike.
--
-- in   spine(user_id, as_of), distinct; a night's spine includes the attributes, as of its one date
--      activity(landed_on, user_id, event, event_date, n)
--      users(landed_on, user_id, attributes), unless the spine has them
--      static: the attributes that never change
-- out  user_id, as_of, the aggregates of the user's events, and the user's attributes
--
-- The aggregates are declared in pipeline/config/features.py; a macro here computes each of their functions.
--
-- Both clocks hold: activity counts only if it happened and landed by as_of, a profile only if it landed by then. What
-- never changes has no clock: its first value holds before it landed, too.
{% set longest_window = aggregates.values() | map(attribute="window_days") | max %}
{# The join below is limited to the longest window, so its aggregates need no condition on the date. #}
{% macro is_counted(each) -%}
  a.event = '{{ each.event }}'
  {%- if each.window_days < longest_window %} AND a.event_date > date_sub(s.as_of, {{ each.window_days }}){% endif %}
{%- endmacro %}
{% macro count(each) -%}
  coalesce(sum(CASE WHEN {{ is_counted(each) }} THEN a.n END), 0)
{%- endmacro %}
{% macro days_since(each) -%}
  datediff(s.as_of, max(CASE WHEN {{ is_counted(each) }} THEN a.event_date END))
{%- endmacro %}
{% set changing = attributes | reject("in", static) | list %}
{% set expressions = {"count": count, "days_since": days_since} %}
WITH
{% if attributes and not spine_has_attributes %}
latest AS (
  {% if changing %}
  SELECT
    s.user_id,
    s.as_of,
    max_by(struct({% for name in changing %}u.{{ name | quote }}{{ ", " if not loop.last }}{% endfor %}), u.landed_on)
      AS profile
  FROM spine AS s
  LEFT JOIN users AS u ON u.user_id = s.user_id AND u.landed_on <= s.as_of
  GROUP BY s.user_id, s.as_of
  {% else %}
  SELECT user_id, as_of FROM spine
  {% endif %}
),
{% if static %}
firsts AS (
  SELECT
    user_id,
    {% for name in static %}
    min_by({{ name | quote }}, landed_on) FILTER (WHERE {{ name | quote }} IS NOT NULL) AS {{ name | quote }}
    {{- "," if not loop.last }}
    {% endfor %}
  FROM users
  GROUP BY user_id
),
{% endif %}
profiled AS (
  SELECT
    l.user_id,
    l.as_of
    {% for name in attributes %}
    , {{ "f." if name in static else "l.profile." }}{{ name | quote }}
    {% endfor %}
  FROM latest AS l
  {% if static %}
  LEFT JOIN firsts AS f ON f.user_id = l.user_id
  {% endif %}
)
{% else %}
profiled AS (
  SELECT * FROM spine
)
{% endif %}
SELECT
  s.user_id,
  s.as_of,
  {% for name, each in aggregates.items() %}
  {{ expressions[each.function](each) }} AS {{ name | quote }}{{ "," if not loop.last }}
  {% endfor %}
  {% for name in attributes %}
  , s.{{ name | quote }}
  {% endfor %}
FROM profiled AS s
LEFT JOIN activity AS a
  ON a.user_id = s.user_id
  AND a.landed_on <= s.as_of
  AND a.event_date <= s.as_of
  AND a.event_date > date_sub(s.as_of, {{ longest_window }})
GROUP BY s.user_id, s.as_of{% for name in attributes %}, s.{{ name | quote }}{% endfor %}

