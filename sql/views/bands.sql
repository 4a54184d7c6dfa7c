-- One band of one stage on one night.
--
-- columns  ds, stage, band (10 is best)
--          users; mean_score, min_score, max_score: of their p_<stage>
{% for stage in stages %}
SELECT
  ds,
  '{{ stage.name }}' AS stage,
  band_{{ stage.name }} AS band,
  count(*) AS users,
  avg(p_{{ stage.name }}) AS mean_score,
  min(p_{{ stage.name }}) AS min_score,
  max(p_{{ stage.name }}) AS max_score
FROM user_scores
GROUP BY ds, band_{{ stage.name }}
{% if not loop.last %}
UNION ALL
{% endif %}
{% endfor %}
