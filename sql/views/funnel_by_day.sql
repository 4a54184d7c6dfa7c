-- One calendar day of the funnel: what happened on it, whenever it landed.
--
-- event_date      The day.
-- exposures       Messages sent.
-- events_<stage>  Events of <stage>, whichever day's exposure they follow.
-- rate_<stage>    Events per exposure; null without exposures. Not a probability: see funnel_by_cohort for that.
WITH days AS (
  SELECT
    event_date,
    CAST(coalesce(sum(n) FILTER (WHERE event = 'exposure'), 0) AS BIGINT) AS exposures
    {% for stage in stages %}
    , CAST(coalesce(sum(n) FILTER (WHERE event = '{{ stage.name }}'), 0) AS BIGINT) AS events_{{ stage.name }}
    {% endfor %}
  FROM activity
  GROUP BY event_date
)
SELECT
  *
  {% for stage in stages %}
  , events_{{ stage.name }} / nullif(exposures, 0) AS rate_{{ stage.name }}
  {% endfor %}
FROM days
