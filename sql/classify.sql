-- Gives every source row one fate: kept, duplicate, or quarantined with a reason.
--
-- in   source(landed_on, event_id, user_id, source_event, event_time, campaign_id, context, raw)
--      known(event_id, landed_on): what landed in the look-back before the first day read
-- out  the source's rows with our event name, an event_id, fate and reason
--
-- A key that lands on several days is kept on the first of them, and again only when more than the look-back has
-- passed since it was last kept: what a night-by-night ingest, which sees only that many days, would have done.
WITH checked AS (
  SELECT
    *,
    CASE source_event
      {% for theirs, ours in event_names.items() %}
      WHEN {{ theirs | literal }} THEN {{ ours | literal }}
      {% endfor %}
    END AS event,
    CASE
      WHEN user_id IS NULL OR trim(user_id) = '' THEN 'null user'
      WHEN source_event IS NULL THEN 'null event'
      WHEN source_event NOT IN ({{ event_names | map('literal') | join(', ') }}) THEN 'unknown event'
      WHEN event_time IS NULL THEN 'unparsable time'
      WHEN event_time >= CAST(date_add(landed_on, 1) AS TIMESTAMP) + make_interval(0, 0, 0, 0, {{ tolerance_hours }})
        THEN 'future time'
    END AS reason
  FROM source
),
keyed AS (
  SELECT
    landed_on, user_id, event, event_time, campaign_id, context, raw, reason,
    coalesce(
      nullif(trim(event_id), ''),
      sha2(to_json(struct(user_id, event, unix_micros(event_time) AS at, campaign_id, context)), 256)
    ) AS event_id,
    true AS is_new
  FROM checked
  UNION ALL
  SELECT landed_on, NULL, NULL, NULL, NULL, NULL, NULL, NULL, event_id, false
  FROM known
),
-- Quarantined rows share no key with anything: each is its own group.
grouped AS (
  SELECT
    *,
    row_number() OVER (
      PARTITION BY event_id, reason, landed_on ORDER BY event_time, user_id, event, campaign_id, to_json(context)
    ) AS nth_of_day,
    collect_set(landed_on) OVER (PARTITION BY event_id, reason) AS landing_days
  FROM keyed
),
days AS (
  SELECT
    *,
    CASE WHEN size(landing_days) > 1 THEN aggregate(
      array_sort(landing_days),
      CAST(array() AS ARRAY<DATE>),
      (kept, day) -> CASE
        WHEN size(kept) = 0 OR datediff(day, element_at(kept, -1)) > {{ lookback_days }} THEN array_append(kept, day)
        ELSE kept
      END
    ) END AS kept_days
  FROM grouped
)
SELECT
  landed_on, event_id, user_id, event, event_time, campaign_id, context, raw, reason,
  CASE
    WHEN reason IS NOT NULL THEN 'quarantined'
    WHEN nth_of_day = 1 AND (kept_days IS NULL OR array_contains(kept_days, landed_on)) THEN 'kept'
    ELSE 'duplicate'
  END AS fate
FROM days
WHERE is_new
