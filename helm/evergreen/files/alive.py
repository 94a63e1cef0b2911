"""Is this pod's Airflow job alive? A probe: what `airflow jobs check --local` asks, without importing Airflow.

Arguments: the type of the job, and the seconds that its last heartbeat may be old.
"""

import os
import socket
import sys

import psycopg

address = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg", "")
host = socket.gethostbyname(socket.getfqdn())  # airflow.utils.net.get_host_ip_address
with psycopg.connect(address, connect_timeout=5) as connection:
    found = connection.execute(
        "SELECT now() - max(latest_heartbeat) < make_interval(secs => %s) FROM job"
        " WHERE job_type = %s AND hostname = %s AND state = 'running'",
        (float(sys.argv[2]), sys.argv[1], host),
    ).fetchone()
if not (found and found[0]):
    sys.exit(f"{sys.argv[1]} on {host} has had no heartbeat for {sys.argv[2]} s")
