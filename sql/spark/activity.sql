-- A day's events, aggregated: nights read this small table instead of the events.
--
-- in   events(landed_on, user_id, event, event_time)
-- out  one row per user, event, local event date and landing day: the columns of activity
SELECT
  user_id,
  event,
  to_date(event_time) AS event_date,
  count(*) AS n,
  min(event_time) AS first_time,
  max(event_time) AS last_time,
  landed_on
FROM events
-- A date that Python cannot hold in every zone: ingest rejects such events, older warehouses may have some.
WHERE event_time >= TIMESTAMP'1900-01-01 00:00:00'
GROUP BY user_id, event, to_date(event_time), landed_on
