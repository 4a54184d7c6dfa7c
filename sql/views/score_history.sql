-- One user on one night, compared with the user's previous night.
--
-- user_id         The user.
-- ds              The night.
-- model_version   The model that scored.
-- previous_ds     The user's previous night; null on the first.
-- p_<stage>       Calibrated probability of <stage>, 0 to 1.
-- band_<stage>    Band of <stage>, 1 to 10; 10: best tenth.
-- change_<stage>  p_<stage> less that of the previous night; null on the first.
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
