"""Faults of batch norm: its settings, its running statistics, its scale."""

from __future__ import annotations

from dataclasses import replace

import torch

from trainables.faults.build import Fault, edit_state
from trainables.ingredients import Change
from trainables.norms import NormSettings, batch_norms
from trainables.recipe import Recipe
from trainables.state import TrainState


def batch_norm_momentum(recipe: Recipe, *, momentum: float) -> Change:
    """Running statistics take `momentum` of each batch's: they lag near 0, and chase each batch near 1."""
    settings = NormSettings(momentum, recipe.config.model.bn_eps)
    return lambda ingredients: replace(ingredients, norm=settings)


def batch_norm_eps(recipe: Recipe, *, eps: float) -> Fault:
    """The variance gets `eps`, in training and in evaluation."""
    settings = NormSettings(recipe.config.model.bn_momentum, eps)
    return Fault(lambda i: replace(i, norm=settings), lambda i: replace(i, norm=settings))


def frozen_batch_norm(recipe: Recipe) -> Change:
    """Training in evaluation mode: the running statistics normalise, and never change."""
    model = recipe.config.model
    settings = NormSettings(model.bn_momentum, model.bn_eps, frozen=True)
    return lambda ingredients: replace(ingredients, norm=settings)


def corrupt_running_statistics(_recipe: Recipe, *, factor: float = 100.0) -> Fault:
    """The running variances are multiplied by `factor`, each step anew: only evaluation sees it."""

    @torch.no_grad()
    def corrupt(state: TrainState) -> None:
        for layer in batch_norms(state.model):
            assert layer.running_var is not None
            layer.running_var.mul_(factor)

    return edit_state(corrupt)


def low_precision_statistics(_recipe: Recipe) -> Change:
    """Running statistics are rounded to bfloat16 after each step: small changes of them are lost."""

    @torch.no_grad()
    def quantize(state: TrainState) -> None:
        for layer in batch_norms(state.model):
            for statistic in (layer.running_mean, layer.running_var):
                assert statistic is not None
                statistic.copy_(statistic.bfloat16())

    return lambda ingredients: ingredients.edited(quantize)


def large_scale(_recipe: Recipe, *, factor: float = 8.0) -> Fault:
    """Batch norm's scales (gamma) are multiplied by `factor`: huge logits, as from a wrong initialisation."""

    @torch.no_grad()
    def enlarge(state: TrainState) -> None:
        for layer in batch_norms(state.model):
            layer.weight.mul_(factor)

    return edit_state(enlarge)
