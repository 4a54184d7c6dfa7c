-- Events known as of as_of that were kept on more than one day, since the look-back had passed. Usually few.
--
-- in   events(landed_on, event_id, user_id, event, event_time)
-- out  event_id, user_id, event, event_time, together unique, and first_landed_on
SELECT event_id, user_id, event, event_time, min(landed_on) AS first_landed_on
FROM events
WHERE landed_on <= DATE'{{ as_of }}' AND unix_micros(event_time) < {{ end_of_as_of }}
GROUP BY event_id, user_id, event, event_time
HAVING count(*) > 1
