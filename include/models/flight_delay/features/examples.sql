-- One row for each flight: what is known about it when it is scheduled to leave, and whether it arrived late.
--
-- Tables: flights and weather as published, only the days asked for (and lookback_days before them).
-- Variables: getvariable('window_start'), getvariable('window_end'): the first and last day, as DATE.
-- Returns: ds, the entity columns of all feature views, event_timestamp (UTC), the inputs that no view provides,
--          and the label; any further column is kept (here the flight number, so that no two rows are alike).
--
-- A flight without arr_delay was cancelled or diverted: it has no label, it is not on time.
SELECT
    ds,
    carrier,
    origin,
    origin || '-' || dest AS route,
    flight,
    sched_dep_time AS event_timestamp,
    dest,
    distance,
    hour(departure) * 60 + minute(departure) AS departure_minute,
    strftime(departure, '%H') AS departure_hour,
    dayname(departure) AS weekday,
    CASE WHEN arr_delay IS NOT NULL THEN (arr_delay > 15)::BIGINT END AS late
FROM (SELECT *, sched_dep_time AT TIME ZONE 'America/New_York' AS departure FROM flights)
WHERE ds BETWEEN getvariable('window_start')::VARCHAR AND getvariable('window_end')::VARCHAR
