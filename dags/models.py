"""Reports every wrong model as an import error, in the Airflow UI and in `airflow dags list-import-errors`.

It yields no DAG. The files beside it leave such a model out and keep the DAGs of all others: Airflow drops every DAG of
a file that raises, and says nothing of what a file leaves out.

#### Triage notes

- The error names file, field, value and what to do. `evergreen models validate` says the same, and more.
- *The DAGs of that model are gone from the list*: they come back, with their history, when the model is right again.
"""

from __future__ import annotations

from evergreen.catalog import load_models

load_models()
