-- The users whom a night scores: known to the source, not yet completed, consent not withdrawn, all as of ds.
--
-- in   known_users(user_id, profile_on, consent, attributes, seen_on, completed_on) as of ds
-- out  user_id, unique, and the attributes
SELECT user_id{% for name in attributes %}, {{ name | quote }}{% endfor %}

FROM known_users
-- Where the source has users, a completion alone does not make a user known.
WHERE {% if has_users %}profile_on IS NOT NULL{% else %}seen_on <= DATE'{{ ds }}'{% endif %}

  AND (completed_on IS NULL OR completed_on > DATE'{{ ds }}')
  -- Only false withdraws consent; null does not.
  AND consent IS DISTINCT FROM false
