-- One row for each flight: what is known about it when it is scheduled to leave, and whether it arrived late.
--
-- Tables: flights, arrivals and weather as published, only the days asked for (and lookback_days before them).
-- Variables: getvariable('window_start'), getvariable('window_end'): the first and last day, as DATE.
-- Returns: ds, the entity columns of all feature views, event_timestamp (UTC), the inputs that no view provides,
--          and the label; any further column is kept (here the flight number, so that no two rows are alike).
--
-- A flight that has not arrived when its day is ingested has no label there. Most of these arrive the day after, and more
-- than half of them late: each is an example again, with its label, of the day on which it arrived. A cancelled or
-- diverted flight never gets a label, it is not on time.
WITH asked AS (
    SELECT flights.*, arrivals.arr_delay
    FROM flights
    LEFT JOIN arrivals USING (ds, carrier, flight, origin, dest, sched_dep_time)
    UNION ALL BY NAME
    SELECT flights.* REPLACE (arrivals.ds AS ds), arrivals.arr_delay
    FROM flights
    JOIN arrivals USING (carrier, flight, origin, dest, sched_dep_time)
    WHERE flights.ds < arrivals.ds
)
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
FROM (SELECT *, sched_dep_time AT TIME ZONE 'America/New_York' AS departure FROM asked)
WHERE ds BETWEEN getvariable('window_start')::VARCHAR AND getvariable('window_end')::VARCHAR
