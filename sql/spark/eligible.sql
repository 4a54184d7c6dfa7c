-- The users a night may score: known to the source, not yet completed, consent not withdrawn, all as of ds.
--
-- in   known_users(user_id, profile_on, consent, attributes, seen_on, completed_on) as of ds, by sql/spark/known_users.sql
-- out  user_id, once each, with the attributes
SELECT user_id{% for name in attributes %}, {{ name }}{% endfor %}

FROM known_users
-- A completion alone makes nobody known to a source that has users.
WHERE {% if has_users %}profile_on IS NOT NULL{% else %}seen_on <= DATE'{{ ds }}'{% endif %}

  AND (completed_on IS NULL OR completed_on > DATE'{{ ds }}')
  -- Only a false withdraws: no word on consent is not a withdrawal.
  AND consent IS DISTINCT FROM false
