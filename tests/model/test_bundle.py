"""Bundles: predictions, saving and loading, and what is rejected."""

import dataclasses
import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import Bundle, BundleError, ModelConfig
from model.bundle import digest_manifest
from model.calibration.calibrators import Calibrator
from model.network.multitask import build_model
from tests.model.funnels import TASKS, draw_funnel


@pytest.fixture
def saved(bundle, tmp_path):
    bundle.save(tmp_path / "champion")
    return tmp_path / "champion"


def assert_sound(predictions, rows):
    for scores in predictions:
        assert scores.shape == (rows, 3) and scores.dtype == np.float64
        assert ((scores >= 0) & (scores <= 1)).all()
        assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("rows", [0, 1, 2, 5_000])
def test_scores_are_probabilities_that_fall_along_the_stages(bundle, rows):
    assert_sound(bundle.predict(draw_funnel(rows, seed=4).table), rows)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), shifts=st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_stages_fall_for_any_weights_and_any_calibration(bundle, seed, shifts):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_model(bundle.spec, bundle.tasks, ModelConfig(experts=2, expert_units=(4,)))
        torch.nn.init.normal_(network.towers.score.bias, std=20.0)
    calibration = tuple(Calibrator("platt", (0.0,), (shift,), 1.0 + abs(shift)) for shift in shifts)
    wild = dataclasses.replace(bundle, network=network, calibration=calibration)
    assert_sound(wild.predict(draw_funnel(20, seed=5).table), 20)


def test_a_score_does_not_depend_on_its_neighbours(bundle):
    table = draw_funnel(3_000, seed=6).table
    whole = bundle.predict(table).calibrated
    parts = [bundle.predict(table.slice(start, rows)).calibrated for start, rows in [(0, 1), (1, 8), (9, 2991)]]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_batches_and_extra_columns_are_accepted(bundle):
    table = draw_funnel(50, seed=7).table
    batch = table.append_column("note", pa.array(["x"] * 50)).to_batches()[0]
    np.testing.assert_array_equal(bundle.predict(batch).raw, bundle.predict(table).raw)


def test_a_missing_column_is_named(bundle):
    with pytest.raises(ValueError, match="'age' is not in the table"):
        bundle.predict(draw_funnel(5).table.drop_columns("age"))


def test_a_data_frame_is_rejected_with_a_way_to_convert_it(bundle):
    with pytest.raises(ValueError, match=r"rows are a DataFrame, not a pyarrow Table \(pyarrow.Table.from_pandas"):
        bundle.predict(draw_funnel(5).table.to_pandas())


def test_evaluate_ignores_rows_without_a_label(bundle):
    table = draw_funnel(2_000, seed=8).table
    masked = table["label_complete"].to_pylist()[:1_500] + [None] * 500
    column = table.schema.get_field_index("label_complete")
    figures = bundle.evaluate(table.set_column(column, "label_complete", pa.array(masked)))
    first = bundle.evaluate(table.slice(0, 1_500))
    assert figures["complete"] == first["complete"]
    assert figures["click"].rows == 2_000
    assert bundle.log_loss(table) == {task: bundle.evaluate(table)[task].log_loss for task in TASKS}


def test_a_saved_bundle_gives_the_same_scores(bundle, saved):
    table = draw_funnel(500, seed=9).table
    loaded = Bundle.load(saved)
    for before, after in zip(bundle.predict(table), loaded.predict(table), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.metrics == bundle.metrics
    assert loaded.trained_on == {"snapshot": 7, "as_of": "2024-03-01"}
    assert (loaded.tasks, loaded.config, loaded.training) == (bundle.tasks, bundle.config, bundle.training)
    assert sorted(path.name for path in saved.iterdir()) == ["bundle.json", "weights.safetensors"]


def test_a_bundle_keeps_the_types_of_its_columns(bundle, saved):
    table = draw_funnel(500, seed=9).table
    loaded = Bundle.load(saved)
    assert {each.feature.name: each.type for each in loaded.spec.categoricals} == {
        each.feature.name: str(table.schema.field(each.feature.name).type) for each in bundle.spec.categoricals
    }
    name = bundle.spec.categoricals[0].feature.name
    numbers = table.set_column(table.schema.get_field_index(name), name, pa.array([1.5] * 500))
    with pytest.raises(ValueError, match=f"'{name}' is of type double and was of type int"):
        loaded.predict(numbers)


def test_a_bundle_from_before_types_were_kept_still_scores(bundle, saved):
    manifest = json.loads((saved / "bundle.json").read_text(encoding="utf-8"))
    features = manifest["features"]
    for each in (*features["categorical"], *features["list"], *features["numeric"]):
        del each["type"]
    change_manifest(sign=True, features=features)(saved)
    table = draw_funnel(500, seed=9).table
    np.testing.assert_array_equal(Bundle.load(saved).predict(table).raw, bundle.predict(table).raw)


def test_loading_does_not_touch_torchs_random_state(saved):
    torch.manual_seed(5)
    Bundle.load(saved)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_a_bundle_is_never_overwritten(bundle, saved):
    with pytest.raises(BundleError, match="already exists"):
        bundle.save(saved)


def test_a_failed_save_leaves_nothing_behind(bundle, tmp_path):
    broken = dataclasses.replace(bundle, trained_on={"share": float("nan")})
    with pytest.raises(ValueError):
        broken.save(tmp_path / "champion")
    assert list(tmp_path.iterdir()) == []


def cut_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def spoil_weights(folder):
    path = folder / "weights.safetensors"
    weights = safetensors.torch.load(path.read_bytes())
    next(iter(weights.values())).view(-1)[0] = float("nan")
    path.write_bytes(safetensors.torch.save(weights))
    change_manifest(sign=True, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())(folder)


def change_manifest(*, sign=False, **changes):
    """With ``sign``, as other code might write it; without, as an accident might leave it."""

    def change(folder):
        path = folder / "bundle.json"
        manifest = json.loads(path.read_text()) | changes
        if sign:
            manifest["manifest_sha256"] = digest_manifest(manifest)
        path.write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_weights, "is damaged: weights.safetensors is not the file that was saved"),
        (
            lambda folder: (folder / "weights.safetensors").unlink(),
            "is damaged: weights.safetensors cannot be read",
        ),
        (lambda folder: (folder / "bundle.json").unlink(), "is not a bundle: bundle.json cannot be read"),
        (
            lambda folder: (folder / "bundle.json").write_text('{"format": '),
            "is damaged: bundle.json is not JSON",
        ),
        (lambda folder: (folder / "bundle.json").write_text("[]"), "is not a bundle"),
        (change_manifest(format="pickle-jar"), "is not a bundle: bundle.json does not say format"),
        (change_manifest(format_version=1), "has bundle format version 1; this code reads 2"),
        (change_manifest(calibration=[]), "is damaged: bundle.json is not the file that was saved"),
        (change_manifest(sign=True, features={}), "does not fit this code: KeyError: 'categorical'"),
        (change_manifest(sign=True, calibration=[]), "is damaged: calibration has 0 entries for"),
        (change_manifest(sign=True, targets=[]), "is damaged: targets has 0 entries for"),
        (spoil_weights, "is damaged: weight .* has values that are no finite numbers"),
        (lambda folder: (folder / "bundle.json").write_text("[" * 200_000), "bundle.json is not JSON"),
        (change_manifest(sign=True, model={"depth": 3}), "does not fit this code: TypeError: .*depth"),
        (change_manifest(sign=True, model={"experts": 3}), "does not fit this code: .*size mismatch"),
    ],
)
def test_a_damaged_foreign_or_newer_bundle_is_rejected_in_one_line(saved, damage, words):
    damage(saved)
    with pytest.raises(BundleError, match=words) as error:
        Bundle.load(saved)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.load(tmp_path / "nowhere")
