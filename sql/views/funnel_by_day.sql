-- One day of the funnel's calendar: what happened on it, whichever exposure it followed and whenever we learned of it.
--
-- columns  event_date; exposures: messages sent
--          for each stage events_<stage>, and rate_<stage>: events per exposure, null on a day without exposures.
--          Not a probability: an event may follow another day's exposure; funnel_by_cohort says what exposures led to
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
