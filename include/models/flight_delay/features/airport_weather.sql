-- The last weather of each day at each airport: what is known of it from the moment the day is ingested on.
--
-- Tables: flights, arrivals and weather as published, only the days asked for (and lookback_days before them).
-- Variables: getvariable('window_start'), getvariable('window_end'): the first and last day, as DATE.
-- Returns: ds, the entity columns, event_timestamp (UTC; when the row became known), the features. Nothing else.
--
-- Readings come with their day (schedule.cron), so that no flight sees the weather of its own. Where an instrument was
-- silent in the last hours its last reading of the day stands in: arg_max passes over nulls.
SELECT
    ds,
    origin,
    ingested_at(ds) AS event_timestamp,
    arg_max(temp, time_hour) AS temp,
    arg_max(dewp, time_hour) AS dewp,
    arg_max(humid, time_hour) AS humid,
    arg_max(wind_speed, time_hour) AS wind_speed,
    arg_max(precip, time_hour) AS precip,
    arg_max(pressure, time_hour) AS pressure,
    arg_max(visib, time_hour) AS visib
FROM weather
WHERE ds BETWEEN getvariable('window_start')::VARCHAR AND getvariable('window_end')::VARCHAR
GROUP BY ALL
