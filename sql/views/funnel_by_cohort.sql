-- One day's exposures and what they led to, as the newest training examples have it.
--
-- columns  exposure_date, exposures; as_of: the night the examples were built for
--          for each stage, among the exposures whose whole window had passed by then: mature_<stage>, how many they are;
--          outcomes_<stage>, how many of them led to the stage (or to a later one); rate_<stage>, their share, null
--          while none is mature
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
