"""What `import model` costs: torch, numpy and pyarrow, and nothing else of weight."""

import subprocess
import sys


def test_importing_the_model_imports_nothing_it_may_not_need():
    heavy = ["pandas", "sklearn", "scipy", "matplotlib", "pyspark", "airflow", "pipeline", "rtdl_num_embeddings"]
    code = f"import sys, model; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
