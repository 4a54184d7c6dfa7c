-- How many events of each kind, known as of as_of, do not lie at a midnight: none of them, if a log knows only dates.
--
-- in   events(landed_on, event, event_time)
-- out  event, n, and how many of them lie off the local midnight and off the midnight of UTC
SELECT
  event,
  count(*) AS n,
  -- Where clocks change at midnight, a day may start at one o'clock, or have two midnights.
  sum(
    CASE
      WHEN event_time = CAST(to_date(event_time) AS TIMESTAMP) THEN 0
      WHEN hour(event_time) = 0 AND unix_micros(event_time) % 3600000000 = 0 THEN 0
      ELSE 1
    END
  ) AS off_local_midnight,
  sum(CASE WHEN unix_micros(event_time) % 86400000000 = 0 THEN 0 ELSE 1 END) AS off_utc_midnight
FROM events
WHERE landed_on <= DATE'{{ as_of }}' AND unix_micros(event_time) < {{ end_of_as_of }}
GROUP BY event
