"""The model's inputs, from the declared features."""

from model import Categorical, Feature, Numeric
from pipeline.config.features import ExposureAttribute, declared_features
from pipeline.config.settings import Settings


def model_features(settings: Settings) -> list[Feature]:
    """The declared features as the model takes them: the numbers first, then the categories."""
    declared = declared_features(settings)
    return [
        *(Numeric(each.name, transform=each.encoding) for each in declared if each.is_numeric),
        *(
            Categorical(each.name, context=isinstance(each.source, ExposureAttribute))
            for each in declared
            if not each.is_numeric
        ),
    ]
