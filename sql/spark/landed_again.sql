-- Events known as of as_of that were kept on more than one day, since the look-back had passed. Usually few.
--
-- in   events(landed_on, event_id, event_time)
-- out  event_id, unique, and first_landed_on
SELECT event_id, min(landed_on) AS first_landed_on
FROM events
WHERE landed_on <= DATE'{{ as_of }}' AND unix_micros(event_time) < {{ end_of_as_of }}
GROUP BY event_id
HAVING count(*) > 1
