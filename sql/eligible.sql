-- The users a night may score: known to the source, not yet completed, consent not withdrawn, all as of ds.
--
-- in   activity(landed_on, user_id, event, event_date)
--      users(landed_on, user_id, consent), if the source has users
-- out  user_id, once each
WITH known AS (
  {% if has_users %}
  -- The last word on consent holds: a later profile that says nothing of it takes no withdrawal back.
  SELECT user_id, max_by(consent, landed_on) FILTER (WHERE consent IS NOT NULL) AS consent
  FROM users
  WHERE landed_on <= DATE'{{ ds }}'
  GROUP BY user_id
  {% else %}
  SELECT DISTINCT user_id, true AS consent
  FROM activity
  WHERE landed_on <= DATE'{{ ds }}' AND event_date <= DATE'{{ ds }}'
  {% endif %}
)
SELECT known.user_id
FROM known
LEFT ANTI JOIN (
  SELECT user_id
  FROM activity
  WHERE event = '{{ last_stage }}' AND landed_on <= DATE'{{ ds }}' AND event_date <= DATE'{{ ds }}'
) AS completed ON completed.user_id = known.user_id
-- Only a false withdraws: no word on consent is not a withdrawal.
WHERE known.consent IS DISTINCT FROM false
