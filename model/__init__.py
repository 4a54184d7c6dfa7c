"""Multi-task models of a funnel: declare features, fit a table, score another.

Needs torch, numpy, pyarrow, scikit-learn and safetensors; does not depend on Spark, Airflow or the pipeline.
"""

from model.bundle import Bundle, BundleError, FitMetrics, Predictions
from model.comparison import Seesaw, seesaw
from model.config import ModelConfig, TrainConfig
from model.fitting import fit
from model.inputs.categorical import Categorical, CategoricalList
from model.inputs.encoded import Encoded
from model.inputs.feature_spec import Feature, FeatureSpec
from model.inputs.numeric import Numeric
from model.inspection import ExpertUse, Importance, expert_use, permutation_importance
from model.labels import Task
from model.metrics import TaskMetrics
from model.network.multitask import MultiTaskModel
from model.training.progress import Progress, TrainingError, progress_bar

__all__ = [
    "Bundle",
    "BundleError",
    "Categorical",
    "CategoricalList",
    "Encoded",
    "ExpertUse",
    "Feature",
    "FeatureSpec",
    "FitMetrics",
    "Importance",
    "ModelConfig",
    "MultiTaskModel",
    "Numeric",
    "Predictions",
    "Progress",
    "Seesaw",
    "Task",
    "TaskMetrics",
    "TrainConfig",
    "TrainingError",
    "expert_use",
    "fit",
    "permutation_importance",
    "progress_bar",
    "seesaw",
]
