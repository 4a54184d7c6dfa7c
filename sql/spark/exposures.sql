-- Every exposure known as of as_of, with a label for each stage whose window has passed.
--
-- in   events(landed_on, event_id, user_id, event, event_time, campaign_id, context)
--      landed_again(event_id, first_landed_on), by sql/spark/landed_again.sql
-- out  exposure_id, user_id, exposure_time, exposure_date, feature_as_of, context_*, and for each stage
--      observed_<stage>  1 if the stage's own event follows within its window (null while immature)
--      mature_<stage>    whether the whole window has passed by the end of as_of
--      label_<stage>     1 if observed or implied by a later mature stage (null while immature)
--
-- Delays are counted in microseconds of absolute time: a day stays 24 h when clocks change.
WITH known_events AS (
  SELECT e.*, unix_micros(e.event_time) AS at
  FROM events AS e
  -- An event that landed again after the look-back counts once.
  LEFT ANTI JOIN landed_again AS again ON again.event_id = e.event_id AND again.first_landed_on < e.landed_on
  WHERE e.landed_on <= DATE'{{ as_of }}' AND unix_micros(e.event_time) < {{ end_of_as_of }}
),
exposure AS (
  SELECT *
  FROM known_events
  WHERE event = 'exposure' AND to_date(event_time) > date_sub(DATE'{{ as_of }}', {{ history_days }})
),
{% set day = 86400000000 %}
outcome AS (
  SELECT
    x.event_id AS exposure_id,
    s.event AS stage
    {% if attribution == "last_touch" %}
    -- A stage event counts for one exposure: the latest before it, of its own campaign if it names one.
    , row_number() OVER (PARTITION BY s.event_id ORDER BY x.at DESC, x.event_id DESC) AS recency
    {% endif %}
  FROM exposure AS x
  JOIN known_events AS s
    ON s.user_id = x.user_id
    AND s.at > x.at
    AND s.at - x.at <= CASE s.event
      {% for stage in stages %}
      WHEN '{{ stage.name }}' THEN {{ stage.window_days * day }}
      {% endfor %}
    END
    {% if attribution == "last_touch" %}
    AND (s.campaign_id IS NULL OR s.campaign_id = x.campaign_id)
    {% endif %}
  WHERE s.event <> 'exposure'
),
reached AS (
  SELECT
    exposure_id
    {% for stage in stages %}
    , max(CASE WHEN stage = '{{ stage.name }}' THEN 1 ELSE 0 END) AS reached_{{ stage.name }}
    {% endfor %}
  FROM outcome
  {% if attribution == "last_touch" %}
  WHERE recency = 1
  {% endif %}
  GROUP BY exposure_id
),
observed AS (
  SELECT
    x.*
    {% for stage in stages %}
    , x.at + {{ stage.window_days * day }} <= {{ end_of_as_of }} AS mature_{{ stage.name }}
    , CASE
        WHEN x.at + {{ stage.window_days * day }} <= {{ end_of_as_of }} THEN coalesce(r.reached_{{ stage.name }}, 0)
      END AS observed_{{ stage.name }}
    {% endfor %}
  FROM exposure AS x
  LEFT JOIN reached AS r ON r.exposure_id = x.event_id
)
SELECT
  event_id AS exposure_id,
  user_id,
  event_time AS exposure_time,
  to_date(event_time) AS exposure_date,
  date_sub(to_date(event_time), 1) AS feature_as_of,
  {% for column, name in context.items() %}
  {% if name == "campaign" %}
  campaign_id AS {{ column }},
  {% elif name == "hour" and name not in declared_context %}
  date_format(event_time, 'HH') AS {{ column }},
  {% else %}
  context[{{ name | literal }}] AS {{ column }},
  {% endif %}
  {% endfor %}
  {% for stage in stages %}
  observed_{{ stage.name }},
  mature_{{ stage.name }},
  -- greatest() ignores nulls, so an immature stage implies nothing.
  CASE WHEN mature_{{ stage.name }} THEN greatest(observed_{{ stage.name }}
    {%- for later in stages[loop.index:] %}, observed_{{ later.name }}{% endfor %}
    {%- if loop.last %}, 0{% endif %}) END AS label_{{ stage.name }},
  {% endfor %}
  DATE'{{ as_of }}' AS as_of
FROM observed
