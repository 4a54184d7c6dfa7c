"""Run one night of `funnel_nightly` to its end in this process; the last line printed is what became of it, as JSON.

python -m tests.dags.run_dag LOGICAL_DATE
"""

import json
import sys
from datetime import datetime

from tests.dags.conftest import DAGS


def main(logical_date: str) -> None:
    # Tests import this module too, to look for doctests: Airflow must wait until its home is set.
    from airflow.dag_processing.dagbag import DagBag

    run = DagBag(DAGS).dags["funnel_nightly"].test(logical_date=datetime.fromisoformat(logical_date))
    tasks = {task.task_id: {"state": task.state, "tries": task.try_number} for task in run.get_task_instances()}
    print()
    print(json.dumps({"state": run.state, "run_id": run.run_id, "tasks": tasks}))


if __name__ == "__main__":
    main(sys.argv[1])
