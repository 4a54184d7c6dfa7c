-- One band of one stage on one night.
--
-- ds          The night.
-- stage       The stage.
-- band        1 to 10; 10 is the best tenth of the night's users.
-- users       Users in the band.
-- mean_score  Mean of their p_<stage>.
-- min_score   Lowest of their p_<stage>.
-- max_score   Highest of their p_<stage>.
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
