"""Columns are known by the names that trainers give them."""

from __future__ import annotations

import pytest

from trainables.runlog.names import EPOCHS, STEPS, choose, meaning, named


@pytest.mark.parametrize(
    ("name", "quantity"),
    [
        ("loss", "loss"),
        ("train_loss", "loss"),
        ("train/loss", "loss"),
        ("training_loss", "loss"),
        ("Loss/train", "loss"),
        ("trainLoss", "loss"),
        ("train_loss_step", "loss"),
        ("train/cross_entropy", "loss"),
        ("epoch_loss", "loss"),
        ("val_loss", "val_loss"),
        ("eval/loss", "val_loss"),
        ("validation/epoch_loss", "val_loss"),
        ("lr", "learning_rate"),
        ("learning_rate", "learning_rate"),
        ("train/lr", "learning_rate"),
        ("lr-SGD", "learning_rate"),
        ("lr-AdamW/pg1", "learning_rate"),
        ("grad_norm", "grad_norm"),
        ("train/grad_norm", "grad_norm"),
        ("gnorm", "grad_norm"),
        ("gradient_norm", "grad_norm"),
        ("update_ratio", "update_ratio"),
        ("scale", "loss_scale"),
        ("loss_scale", "loss_scale"),
        ("val/acc1", "val_accuracy"),
        ("val_top1", "val_accuracy"),
        ("Valid Acc@1", "val_accuracy"),
        ("accuracy", "accuracy"),
        ("train_top1", "accuracy"),
        ("input_mean_r", "input_mean_0"),
        ("input_std.2", "input_std_2"),
    ],
)
def test_usual_names_are_understood(name: str, quantity: str) -> None:
    """What Keras, Lightning, Transformers, timm, TensorBoard and epoch14 call things."""
    found = meaning(name)
    assert found is not None
    assert (found.quantity, found.distance) == (quantity, 0)


@pytest.mark.parametrize(
    "name", ["loss_bbox", "loss_noise", "val_top5", "best_val_top1", "lr-SGD-momentum", "perplexity", "weight_norm"]
)
def test_other_names_are_left_alone(name: str) -> None:
    """A name that says more, or something else, is not taken without being told."""
    assert choose({name: 100}) == {}


def test_the_column_with_most_points_is_taken() -> None:
    """Transformers writes one `train_loss` at the end beside many `loss`; Lightning a row a step and one an epoch."""
    assert choose({"train_loss": 1, "loss": 500}) == {"loss": "loss"}
    assert choose({"train_loss_epoch": 5, "train_loss_step": 500}) == {"loss": "train_loss_step"}


def test_steps_of_training_come_before_a_tools_own() -> None:
    """`trainer/global_step` is the training's, `_step` counts calls; case and marks don't matter."""
    assert named(["_step", "trainer/global_step"], STEPS) == "trainer/global_step"
    assert named(["Epoch", "loss"], STEPS) is None
    assert named(["Epoch", "loss"], EPOCHS) == "Epoch"
