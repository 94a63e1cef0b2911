-- The weather at each airport, hour by hour: known from the hour of its observation on.
--
-- Tables: flights and weather as published, only the days asked for (and lookback_days before them).
-- Variables: getvariable('window_start'), getvariable('window_end'): the first and last day, as DATE.
-- Returns: ds, the entity columns, event_timestamp (UTC; when the row became known), the features. Nothing else.
--
-- Where an instrument was silent the last reading of that day or the day before stands in: stations leave out the
-- pressure in every tenth hour.
SELECT * FROM (
    SELECT
        ds,
        origin,
        time_hour AS event_timestamp,
        last_value(temp IGNORE NULLS) OVER earlier AS temp,
        last_value(dewp IGNORE NULLS) OVER earlier AS dewp,
        last_value(humid IGNORE NULLS) OVER earlier AS humid,
        last_value(wind_speed IGNORE NULLS) OVER earlier AS wind_speed,
        last_value(precip IGNORE NULLS) OVER earlier AS precip,
        last_value(pressure IGNORE NULLS) OVER earlier AS pressure,
        last_value(visib IGNORE NULLS) OVER earlier AS visib
    FROM weather
    WINDOW earlier AS (
        PARTITION BY origin ORDER BY time_hour RANGE BETWEEN INTERVAL 24 HOURS PRECEDING AND CURRENT ROW
    )
)
WHERE ds BETWEEN getvariable('window_start')::VARCHAR AND getvariable('window_end')::VARCHAR
