-- One day's exposures and what they led to, by the newest training examples.
--
-- exposure_date     The day of the exposures.
-- as_of             The date that the examples were built for.
-- exposures         Exposures of the day.
-- mature_<stage>    Of them, those whose whole window for <stage> had passed by as_of.
-- outcomes_<stage>  Of these, those that led to <stage> or a later stage.
-- rate_<stage>      outcomes_<stage> / mature_<stage>, 0 to 1; null while none is mature.
WITH cohorts AS (
  SELECT
    exposure_date,
    as_of,
    count(*) AS exposures
    {% for stage in stages %}
    , count(*) FILTER (WHERE mature_{{ stage.name }}) AS mature_{{ stage.name }}
    , CAST(coalesce(sum(label_{{ stage.name }}) FILTER (WHERE mature_{{ stage.name }}), 0) AS BIGINT)
        AS outcomes_{{ stage.name }}
    {% endfor %}
  FROM examples
  WHERE as_of = (SELECT max(as_of) FROM examples)
  GROUP BY exposure_date, as_of
)
SELECT
  *
  {% for stage in stages %}
  , outcomes_{{ stage.name }} / nullif(mature_{{ stage.name }}, 0) AS rate_{{ stage.name }}
  {% endfor %}
FROM cohorts
