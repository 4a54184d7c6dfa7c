"""`import model` imports torch, numpy and pyarrow, but nothing heavy besides."""

import subprocess
import sys


def test_importing_the_model_imports_no_optional_packages():
    heavy = ["pandas", "sklearn", "scipy", "matplotlib", "pyspark", "airflow", "pipeline", "rtdl_num_embeddings"]
    code = f"import sys, model; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
