-- Every exposure known as of as_of, with a label for each stage whose window has passed.
--
-- in   events(landed_on, event_id, user_id, event, event_time, campaign_id, context)
--      landed_again(event_id, user_id, event, event_time, first_landed_on), by sql/spark/landed_again.sql
-- out  exposure_id, user_id, exposure_time, exposure_date, feature_as_of, context_*, and for each stage
--      observed_<stage>  1 if the stage's own event follows within its window (null while immature)
--      mature_<stage>    whether the whole window has passed by the end of as_of
--      label_<stage>     1 if observed or implied by a later mature stage (null while immature)
--
-- Delays are counted in microseconds of absolute time: a day stays 24 h when clocks change. With by_day, the log knows
-- only dates: delays are counted in calendar days, and what shares an exposure's date follows it.
{% if by_day %}
{% set day = 1 %}
{% set at = "datediff(to_date(e.event_time), DATE'1970-01-01')" %}
{% set end = "datediff(DATE'" ~ as_of ~ "', DATE'1970-01-01')" %}
{% set latest_first = "at DESC, event = 'exposure', event_time DESC, event_id DESC" %}
{% set precedes = "<" %}
{% else %}
{% set day = 86400000000 %}
{% set at = "unix_micros(e.event_time)" %}
{% set end = end_of_as_of %}
{% set latest_first = "at DESC, event = 'exposure' DESC, event_id DESC" %}
{% set precedes = "<=" %}
{% endif %}
{# Whether the next event of a stage follows within its window and, if it has a single owner, before the next exposure. #}
{% macro is_reached(next, next_exposure, window_days) -%}
  {{ next }} - at <= {{ window_days * day }}
  {%- if attribution == "last_touch" %} AND ({{ next_exposure }} IS NULL OR {{ next }} {{ precedes }} {{ next_exposure }}){% endif %}
{%- endmacro %}
WITH known_events AS (
  SELECT
    e.event_id,
    e.user_id,
    e.event,
    e.event_time,
    e.campaign_id,
    CASE WHEN e.event = 'exposure' THEN e.context END AS context,
    {{ at }} AS at
  FROM events AS e
  -- An event that landed again after the look-back counts once.
  LEFT ANTI JOIN landed_again AS again
    ON again.event_id = e.event_id
    AND again.user_id = e.user_id
    AND again.event = e.event
    AND again.event_time = e.event_time
    AND again.first_landed_on < e.landed_on
  WHERE e.landed_on <= DATE'{{ as_of }}'
    AND unix_micros(e.event_time) < {{ end_of_as_of }}
    AND (e.event <> 'exposure' OR to_date(e.event_time) > date_sub(DATE'{{ as_of }}', {{ history_days }}))
),
-- An exposure needs only the next event of each stage: if that is too late or another exposure's, so are the others.
-- A user's log is walked once, from its end, so the work grows with its length and not with its square.
followed AS (
  SELECT
    *
    {% for stage in stages %}
    {% if attribution == "last_touch" %}
    , min(CASE WHEN event = '{{ stage.name }}' AND campaign_id IS NULL THEN at END) OVER later AS next_{{ stage.name }}
    , min(CASE WHEN event = '{{ stage.name }}' AND campaign_id IS NOT NULL THEN at END) OVER later_of_campaign
        AS own_next_{{ stage.name }}
    {% else %}
    , min(CASE WHEN event = '{{ stage.name }}' THEN at END) OVER later AS next_{{ stage.name }}
    {% endif %}
    {% endfor %}
    {% if attribution == "last_touch" %}
    , min(CASE WHEN event = 'exposure' THEN at END) OVER later AS next_exposure
    , min(CASE WHEN event = 'exposure' THEN at END) OVER later_of_campaign AS own_next_exposure
    {% endif %}
  FROM known_events
  -- Of exposures at one instant, the one with the greater id is later. A stage's event at that instant follows neither;
  -- of the same date, it follows both.
  WINDOW
    {% if attribution == "last_touch" %}
    later_of_campaign AS (
      PARTITION BY user_id, campaign_id
      ORDER BY {{ latest_first }}
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ),
    {% endif %}
    later AS (
      PARTITION BY user_id
      ORDER BY {{ latest_first }}
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
),
observed AS (
  SELECT
    *
    {% for stage in stages %}
    , at + {{ stage.window_days * day }} <= {{ end }} AS mature_{{ stage.name }}
    , CASE
        WHEN at + {{ stage.window_days * day }} > {{ end }} THEN NULL
        WHEN {{ is_reached("next_" ~ stage.name, "next_exposure", stage.window_days) }} THEN 1
        {% if attribution == "last_touch" %}
        -- An event that names a campaign belongs to the latest exposure of its own.
        WHEN {{ is_reached("own_next_" ~ stage.name, "own_next_exposure", stage.window_days) }} THEN 1
        {% endif %}
        ELSE 0
      END AS observed_{{ stage.name }}
    {% endfor %}
  FROM followed
  WHERE event = 'exposure'
)
SELECT
  event_id AS exposure_id,
  user_id,
  event_time AS exposure_time,
  to_date(event_time) AS exposure_date,
  date_sub(to_date(event_time), 1) AS feature_as_of,
  {% for column, name in context.items() %}
  {% if name == "campaign" and name not in declared_context %}
  campaign_id AS {{ column }},
  {% elif name == "hour" and name not in declared_context %}
  {{ "CAST(NULL AS STRING)" if by_day else "date_format(event_time, 'HH')" }} AS {{ column }},
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
