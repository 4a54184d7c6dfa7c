-- One user scored on the newest night: the row of `user_scores`.
--
-- columns  those of user_scores: user_id, p_<stage>, raw_<stage>, band_<stage>, feature_as_of, model_version, run_id,
--          code_version, scored_at, ds
SELECT *
FROM user_scores
WHERE ds = (SELECT max(ds) FROM user_scores)
