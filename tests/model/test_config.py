"""Options of the model and of its training: what is rejected, and how they survive JSON."""

import dataclasses

import pytest

from model import ModelConfig, TrainConfig


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"experts": 0}, "experts is 0"),
        ({"embedding_dim": 2.5}, "embedding_dim is 2.5"),
        ({"expert_units": (8, -1)}, r"expert_units is \(8, -1\)"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"head": "tree"}, "head is 'tree', not one of chain, independent"),
        ({"architecture": "mlp"}, "architecture is 'mlp', not one of single_task, "),
        ({"architecture": "single_task", "head": "chain"}, "head is 'chain'"),
        ({"activation": "swoosh"}, "activation is 'swoosh'"),
        ({"levels": 0}, "levels is 0"),
        ({"init_std": 0}, "init_std is 0"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"expert_units": 64}, "expert_units is 64"),
        ({"batch_norm": 1}, "batch_norm is 1"),
        ({"l2_constraint": -1.0}, "l2_constraint is -1.0"),
        ({"numeric_embedding": "fourier"}, "numeric_embedding is 'fourier'"),
    ],
)
def test_invalid_model_options_are_named_with_their_value(options, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"context_dropout": 1.5}, "context_dropout is 1.5"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"clip_norm": 0}, "clip_norm is 0"),
        ({"warmup": 2}, "warmup is 2"),
        ({"schedule": "sawtooth"}, "schedule is 'sawtooth', not one of constant, linear, cosine"),
        ({"loss_weights": "equal"}, "loss_weights is 'equal'"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"device": 3}, "device is 3"),
        ({"compile": "yes"}, "compile is 'yes'"),
    ],
)
def test_invalid_training_options_are_named_with_their_value(options, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**options)


def test_a_configuration_survives_json_lists():
    config = ModelConfig(architecture="ple", expert_units=(8, 4))
    stored = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(config).items()}
    assert ModelConfig(**stored) == config == dataclasses.replace(config)
