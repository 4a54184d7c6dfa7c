-- Decides each source row's fate: kept, duplicate, or quarantined with a reason.
--
-- in   source(landed_on, event_id, user_id, source_event, event_time, campaign_id, context, raw, _problem,
--        _damage, _unread): why its time cannot be used and what is damaged in it, as reasons, and what was lost
--      known(landed_on, event_id, user_id, event, event_time, campaign_id, context): the events that landed in the
--        look-back before the first day read
--      most_of_user: how many rows a user may have on a landing day; 0: any number
-- out  the source's rows with our event name, an event_id, fate and reason; raw is null unless quarantined;
--      unknown_event: the source's name of the event, unless no event of ours has it; shares_id: another event has the
--      row's event_id; has_other_details: the row differs from the first of its event in campaign or context
--
-- A repeat is the same event: the same event_id, user, event and time{% if not keeps_same_id %}; here, the same event_id{% endif %}.
--
-- An event that lands on several days is kept on the first of them, and again only when more than the look-back has
-- passed since it was last kept. A night-by-night ingest, which sees only the look-back, gives the same result.
WITH checked AS (
  SELECT
    *,
    CASE source_event
      {% for theirs, ours in event_names.items() %}
      WHEN {{ theirs | literal }} THEN {{ ours | literal }}
      {% endfor %}
    END AS event,
    CASE
      WHEN _damage IS NOT NULL THEN _damage
      WHEN user_id IS NULL OR trim(user_id) = '' THEN 'null user'
      WHEN source_event IS NULL THEN 'null event'
      WHEN source_event NOT IN ({{ event_names | map('literal') | join(', ') }}) THEN 'unknown event'
      WHEN _problem IS NOT NULL THEN _problem
      WHEN event_time IS NULL THEN 'unparsable time'
      WHEN event_time >= CAST(date_add(landed_on, 1) AS TIMESTAMP) + make_interval(0, 0, 0, 0, {{ tolerance_hours }})
        THEN 'future time'
      {% if most_of_user %}
      -- Before repeats are looked for, so that a row left out today is no repeat's original tomorrow.
      WHEN count(*) OVER (PARTITION BY landed_on, user_id) > {{ most_of_user }} THEN 'too many events of one user'
      {% endif %}
    END AS reason
  FROM source
),
keyed AS (
  SELECT
    landed_on, user_id, event, event_time, campaign_id, context, reason, _unread,
    -- Only a rejected row keeps its raw content, so that the others' is neither built nor sorted.
    CASE WHEN reason IS NOT NULL THEN raw END AS raw,
    coalesce(
      nullif(trim(event_id), ''),
      sha2(to_json(struct(user_id, event, unix_micros(event_time) AS at, campaign_id, context)), 256)
    ) AS event_id,
    xxhash64(campaign_id, map_entries(context)) AS details,
    true AS is_new,
    CASE WHEN reason = 'unknown event' THEN source_event END AS unknown_event
  FROM checked
  UNION ALL
  SELECT
    landed_on, user_id, event, event_time, NULL, NULL, NULL, NULL, NULL, event_id,
    xxhash64(campaign_id, map_entries(context)), false, NULL
  FROM known
),
-- Quarantined rows never share a partition with others. The windows need one shuffle and one sort.
ordered AS (
  SELECT
    *,
    first_value(struct(user_id, event, event_time)) OVER same_id
      IS DISTINCT FROM struct(user_id, event, event_time) AS shares_id,
    first_value(details) OVER same_event IS DISTINCT FROM details AS has_other_details,
    lag(landed_on) OVER same_event IS DISTINCT FROM landed_on AS is_first_of_day,
    collect_set(landed_on) OVER same_event AS days_so_far
  FROM keyed
  {% set content = "event_time, user_id, event" %}
  {% set rest = "campaign_id, map_entries(context)" %}
  WINDOW
    {% if keeps_same_id %}
    same_id AS (PARTITION BY event_id, reason ORDER BY {{ content }}, landed_on, {{ rest }}),
    same_event AS (PARTITION BY event_id, reason, {{ content }} ORDER BY landed_on, {{ rest }})
    {% else %}
    same_id AS (PARTITION BY event_id, reason ORDER BY landed_on, {{ content }}, {{ rest }}),
    same_event AS (PARTITION BY event_id, reason ORDER BY landed_on, {{ content }}, {{ rest }})
    {% endif %}
)
SELECT
  landed_on, event_id, user_id, event, event_time, campaign_id, context, raw, reason, _unread, unknown_event,
  shares_id, has_other_details,
  CASE
    WHEN reason IS NOT NULL THEN 'quarantined'
    WHEN is_first_of_day AND (
      size(days_so_far) = 1
      OR landed_on = aggregate(
        array_sort(days_so_far),
        CAST(NULL AS DATE),
        (kept, day) -> CASE WHEN kept IS NULL OR datediff(day, kept) > {{ lookback_days }} THEN day ELSE kept END
      )
    ) THEN 'kept'
    ELSE 'duplicate'
  END AS fate
FROM ordered
WHERE is_new
