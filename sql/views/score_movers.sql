-- One user and stage on the newest night and the one before it, for users scored on both.
--
-- user_id        The user.
-- stage          The stage.
-- ds             The newest night.
-- p              Calibrated probability on the newest night, 0 to 1.
-- band           Band on the newest night, 1 to 10; 10: best tenth.
-- previous_ds    The night before it.
-- previous_p     Calibrated probability on the night before.
-- previous_band  Band on the night before.
-- change         p - previous_p.
WITH newest AS (
  SELECT max(ds) AS ds FROM user_scores
),
previous AS (
  SELECT max(ds) AS ds FROM user_scores WHERE ds < (SELECT ds FROM newest)
),
pairs AS (
  SELECT
    later.user_id,
    later.ds,
    earlier.ds AS previous_ds
    {% for stage in stages %}
    , later.p_{{ stage.name }}
    , later.band_{{ stage.name }}
    , earlier.p_{{ stage.name }} AS previous_p_{{ stage.name }}
    , earlier.band_{{ stage.name }} AS previous_band_{{ stage.name }}
    {% endfor %}
  FROM user_scores AS later
  JOIN user_scores AS earlier ON earlier.user_id = later.user_id
  WHERE later.ds = (SELECT ds FROM newest) AND earlier.ds = (SELECT ds FROM previous)
)
{% for stage in stages %}
SELECT
  user_id,
  '{{ stage.name }}' AS stage,
  ds,
  p_{{ stage.name }} AS p,
  band_{{ stage.name }} AS band,
  previous_ds,
  previous_p_{{ stage.name }} AS previous_p,
  previous_band_{{ stage.name }} AS previous_band,
  p_{{ stage.name }} - previous_p_{{ stage.name }} AS change
FROM pairs
{% if not loop.last %}
UNION ALL
{% endif %}
{% endfor %}
