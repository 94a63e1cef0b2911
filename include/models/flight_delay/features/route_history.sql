-- How many of the flights of each route were late, of those that arrived in the last 14 days, the day itself included.
--
-- Tables: flights, arrivals and weather as published, only the days asked for (and lookback_days before them).
-- Variables: getvariable('window_start'), getvariable('window_end'): the first and last day, as DATE.
-- Returns: ds, the entity columns, event_timestamp (UTC; when the row became known), the features. Nothing else.
--
-- A day is counted when it is over and ingested (schedule.cron): a flight sees only days before its own, and an arrival
-- after that counts on the next day. Counts are whole numbers, so that a rebuild gives the same rates to the last bit.
WITH daily AS (
    SELECT ds::DATE AS day, origin || '-' || dest AS route, count(arr_delay) AS flights, count_if(arr_delay > 15) AS late
    FROM arrivals
    GROUP BY ALL
),
days AS (
    SELECT DISTINCT day FROM daily WHERE day BETWEEN getvariable('window_start') AND getvariable('window_end')
)
SELECT
    days.day::VARCHAR AS ds,
    route,
    ingested_at(days.day) AS event_timestamp,
    sum(late)::DOUBLE / nullif(sum(flights), 0)::DOUBLE AS route_late_rate,
    sum(flights)::BIGINT AS route_flights
FROM days
JOIN daily ON daily.day BETWEEN days.day - 13 AND days.day
GROUP BY ALL
