-- Whether attributes that are declared never to change do.
--
-- in   users(landed_on, user_id, attributes)
--      static: the attributes that never change
-- out  one row; by attribute a struct of
--      users    users with a value
--      changed  users with several
--      example  one of these: user_id, and the smallest and the greatest of its values; null: there is none
WITH by_user AS (
  SELECT
    user_id
    {% for name in static %}
    , min({{ name | quote }}) AS low_{{ loop.index }}
    , max({{ name | quote }}) AS high_{{ loop.index }}
    {% endfor %}
  FROM users
  GROUP BY user_id
)
SELECT
  {% for name in static %}
  {% set low, high = "low_" ~ loop.index, "high_" ~ loop.index %}
  struct(
    count({{ low }}) AS users,
    count_if({{ low }} <> {{ high }}) AS changed,
    min(CASE
      WHEN {{ low }} <> {{ high }}
        THEN struct(user_id, CAST({{ low }} AS STRING) AS low, CAST({{ high }} AS STRING) AS high)
    END) AS example
  ) AS {{ name | quote }}{{ "," if not loop.last }}
  {% endfor %}
FROM by_user
