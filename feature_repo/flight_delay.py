"""Feast definitions of the model flight_delay: what its features are looked up by, and how long they hold.

A view's ttl is how old a row may be when a flight of a training set looks it up; the names, entities and features are
those of ``features.views`` in the model's model.yaml, which ``materialize`` compares.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Float64, Int64, String

from evergreen.features.feast_lake import LakeSource

MODEL = "flight_delay"
OWNER = "flight-operations"

origin = Entity(name="origin", value_type=ValueType.STRING, description="Airport of departure, e.g. JFK.")
route = Entity(name="route", value_type=ValueType.STRING, description="Origin and destination, e.g. JFK-SFO.")
carrier = Entity(name="carrier", value_type=ValueType.STRING, description="Two-letter code of the airline.")

airport_weather = FeatureView(
    name="flight_delay_airport_weather",
    description="The last weather of the day before at the airport of departure.",
    entities=[origin],
    # until the next day is ingested, or the one after it; older weather says nothing about the flight
    ttl=timedelta(days=2),
    schema=[
        Field(name="origin", dtype=String),
        Field(name="temp", dtype=Float64, description="Fahrenheit"),
        Field(name="dewp", dtype=Float64, description="dew point, Fahrenheit"),
        Field(name="humid", dtype=Float64, description="relative humidity, per cent"),
        Field(name="wind_speed", dtype=Float64, description="miles an hour"),
        Field(name="precip", dtype=Float64, description="inches in the hour"),
        Field(name="pressure", dtype=Float64, description="millibars at sea level"),
        Field(name="visib", dtype=Float64, description="visibility, miles"),
    ],
    source=LakeSource(model=MODEL, table="airport_weather"),
    owner=OWNER,
)

route_history = FeatureView(
    name="flight_delay_route_history",
    description="How often the route's flights were late over the last 14 days.",
    entities=[route],
    ttl=timedelta(days=7),
    schema=[
        Field(name="route", dtype=String),
        Field(name="route_late_rate", dtype=Float64),
        Field(name="route_flights", dtype=Int64),
    ],
    source=LakeSource(model=MODEL, table="route_history"),
    owner=OWNER,
)

carrier_history = FeatureView(
    name="flight_delay_carrier_history",
    description="How often the carrier's flights were late over the last 7 days.",
    entities=[carrier],
    ttl=timedelta(days=7),
    schema=[
        Field(name="carrier", dtype=String),
        Field(name="carrier_late_rate", dtype=Float64),
        Field(name="carrier_flights", dtype=Int64),
    ],
    source=LakeSource(model=MODEL, table="carrier_history"),
    owner=OWNER,
)

flight_delay = FeatureService(
    name=MODEL,
    description="Everything the model looks up.",
    features=[airport_weather, route_history, carrier_history],
    owner=OWNER,
)
