-- One user scored on the newest night.
--
-- *  user_scores
SELECT *
FROM user_scores
WHERE ds = (SELECT max(ds) FROM user_scores)
