-- Events that landed on more than one day, known at as_of: the look-back had passed. Few, where the source is in order.
--
-- in   events(landed_on, event_id, event_time)
-- out  event_id, first_landed_on
SELECT event_id, min(landed_on) AS first_landed_on
FROM events
WHERE landed_on <= DATE'{{ as_of }}' AND unix_micros(event_time) < {{ end_of_as_of }}
GROUP BY event_id
HAVING count(*) > 1
