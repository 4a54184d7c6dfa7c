-- One user on one night, beside the same user's night before.
--
-- columns  user_id, ds, model_version
--          previous_ds: the user's night before, null on the first
--          for each stage p_<stage>, band_<stage>, and change_<stage>: p less that of the night before
SELECT
  user_id,
  ds,
  model_version,
  lag(ds) OVER (PARTITION BY user_id ORDER BY ds) AS previous_ds
  {% for stage in stages %}
  , p_{{ stage.name }}
  , band_{{ stage.name }}
  , p_{{ stage.name }} - lag(p_{{ stage.name }}) OVER (PARTITION BY user_id ORDER BY ds) AS change_{{ stage.name }}
  {% endfor %}
FROM user_scores
