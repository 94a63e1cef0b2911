"""One machine without a cluster: its services, their supervisor and credentials. No pod and no chart imports it."""
