"""Has this container's Airflow component turned its main loop lately? A probe that costs some 10 ms.

Arguments: the file that it touches (config/airflow_local_settings.py), and for how many seconds it may not have.
"""

import os
import sys
import time

age = time.time() - os.stat(sys.argv[1]).st_mtime  # noqa: PTH116 - the import of pathlib costs as much again
with open("/proc/1/stat") as stat:  # noqa: PTH123
    started = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
# the file outlives a restart of the container: one that is older than its first process tells of the one before
if age > min(float(sys.argv[2]), time.clock_gettime(time.CLOCK_BOOTTIME) - started):
    sys.exit(f"the last heartbeat was {age:.0f} s ago")
