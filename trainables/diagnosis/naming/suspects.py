"""What is wrong with samples that the sampler did draw: their files are compared with those that trained well before.

The files as they lie on disk are all that the run and its references have, so what they show is judged by other files,
and their labels by what the model of the snapshot has learned.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from trainables.diagnosis.case import Case
from trainables.diagnosis.culprits import guilty_samples, listed
from trainables.diagnosis.naming.named import NamedCause
from trainables.diagnosis.references import sample_pool
from trainables.loop import forward, to_input
from trainables.rng import generator

TRUSTED = 256
"""Samples that trained well which the suspects are compared with."""
BEYOND = 0.25
"""How far past the trusted images' range, in units of that range, an image is odd."""
SOME = 0.05
"""Share of odd images from which they are what is wrong."""
SHIFTED = 0.1
"""Distance of the channels' moments, in units of their std, below which the channels are where they belong."""
UNLIKE = 3.0
"""Standard errors that the suspects' accuracy lacks against the trusted ones', from which the labels are wrong."""
FEWER = 0.75
"""Share of the trusted ones' accuracy up to which it counts."""
SAME = 0.6
"""Share of the wrong labels, as far as the model sees them, that are one offset on where that is the fault."""
CHUNK = 64
"""Samples that are predicted at once, and that share statistics."""


def name_suspects(case: Case) -> NamedCause:
    """Odd images are corrupt, moved channels swapped; labels that the model contradicts are wrong; else poisoned."""
    recipe = case.recipe
    steps = [case.stream(k) for k in range(case.symptom.onset, case.symptom.step + 1)]
    ids = np.unique(np.concatenate([i.sample_ids for i in steps]))
    # The onset is an estimate, and one black image among the trusted ones makes black usual: healthy is the snapshot.
    pool = np.setdiff1d(sample_pool(recipe, case.stream, case.snapshot.step or case.symptom.onset), ids)
    if not len(pool):
        return NamedCause("poisoned_batch", listed("samples", ids), guilty_samples(recipe, ids))
    trusted = generator("suspects", recipe.config.seed).permutation(pool)[:TRUSTED]
    images, sound = recipe.train.fetch(ids, None), recipe.train.fetch(trusted, None)
    odd = odd_images(images, sound)
    if odd.mean() >= SOME:
        text = f"{odd.mean():.0%} of them show what no sound image does: {listed('samples', ids[odd])}"
        return NamedCause("corrupt_images", text, guilty_samples(recipe, ids[odd]))
    # The onset is an estimate, and steps before the fault hide it among their own.
    late = np.isin(ids, np.concatenate([i.sample_ids for i in steps[len(steps) // 2 :]]))
    order = moved_channels(images, sound) or moved_channels(images[torch.from_numpy(late)], sound)
    if order is not None:
        text = f"the files' channels come in the order {''.join('RGB'[c] for c in order)}"
        return NamedCause("channel_swap", text, guilty_samples(recipe, ids))
    return name_contradicted(case, ids, images, trusted, sound)


def name_split(case: Case) -> NamedCause:
    """Why train/ makes no progress where val/ does: its images are unlike val/'s, else its labels are wrong."""
    recipe = case.recipe
    draw = generator("split", recipe.config.seed)
    ids = draw.permutation(len(recipe.index.train))[:TRUSTED]
    others = draw.permutation(len(recipe.index.val))[:TRUSTED]
    images, sound = recipe.train.fetch(ids, None), recipe.val.fetch(others, None)
    if images.shape[1:] == sound.shape[1:]:
        odd = odd_images(images, sound)
        if odd.mean() >= SOME:
            text = f"{odd.mean():.0%} of train/ shows what no image of val/ does: {listed('samples', ids[odd])}"
            return NamedCause("corrupt_images", text, guilty_samples(recipe, ids[odd]))
        order = moved_channels(images, sound)
        if order is not None:
            return NamedCause("channel_swap", f"against val/, train/ comes as {''.join('RGB'[c] for c in order)}")
    return NamedCause("label_shuffle", "the same steps on val/ make progress, and the images of both are alike")


def name_contradicted(case: Case, ids: np.ndarray, images: Tensor, trusted: np.ndarray, sound: Tensor) -> NamedCause:
    """By how the labels relate to the predictions of the snapshot's model."""
    truth, classes = case.recipe.index.train.labels, len(case.recipe.index.classes)
    predicted, given = predictions(case, images), truth[ids]
    usual = float((predictions(case, sound) == truth[trusted]).mean())
    right = predicted == given
    error = math.sqrt(usual * (1.0 - usual) * (1.0 / len(ids) + 1.0 / len(trusted)))
    if right.mean() > min(usual - UNLIKE * error, FEWER * usual):
        return NamedCause("poisoned_batch", listed("samples", ids), guilty_samples(case.recipe, ids))
    evidence = f"{right.mean():.0%} of their labels are what the model sees, {usual:.0%} of the samples' before"
    culprits = guilty_samples(case.recipe, ids[~right])
    offset = common_offset((given - predicted) % classes, usual, classes)
    if offset:
        return NamedCause("label_offset", f"{evidence}; most others are {offset} classes on", culprits)
    name = "label_shuffle" if right.mean() < 0.4 * usual else "label_noise"
    return NamedCause(name, evidence, culprits)


def common_offset(offsets: np.ndarray, usual: float, classes: int) -> int:
    """How many classes past the predictions most wrong labels are, of `offsets` [n] modulo classes; 0: drawn ones.

    Steps before the fault may be among them: the wrong labels are then the share of the right ones that is missing.
    Of two classes a label that is wrong is always the next.
    """
    shares = np.bincount(offsets, minlength=classes) / len(offsets)

    wrong = 1.0 - shares[0] / usual
    most = int(shares[1:].argmax()) + 1
    others = (1.0 - shares[0] - shares[most]) / max(1, classes - 2)
    beyond = shares[most] - others > UNLIKE * math.sqrt(max(others, 1.0 / len(offsets)) / len(offsets))
    all_of_them = classes > 2 or shares[most] > SAME * usual
    return most if beyond and all_of_them and shares[most] > SAME * usual * wrong else 0


@torch.no_grad()
def predictions(case: Case, images: Tensor) -> np.ndarray:
    """Classes that the snapshot's model, in training mode, gives to reference inputs; nothing is changed."""
    state, plain = case.state, case.recipe.ingredients(case.snapshot.step)
    state.restore(case.snapshot)
    state.model.train()
    found = torch.empty(len(images), dtype=torch.int64)
    # Ids often come class by class, and a batch of few classes has other statistics than the run's.
    order = torch.from_numpy(generator("predictions", case.recipe.config.seed).permutation(len(images)))
    with state.held_buffers():
        for places in torch.tensor_split(order, max(1, len(images) // CHUNK)):
            inputs = to_input(images[places], case.recipe.reference_normalization, state)
            found[places] = forward(state, state.model, plain, inputs, None).argmax(1).cpu()
    return np.asarray(found.numpy())


def odd_images(images: Tensor, sound: Tensor) -> np.ndarray:
    """Which of `images`, uint8 [n, side, side, 3], lie far outside of what `sound` ones are like, bool [n]."""
    values, known = features(images), features(sound)
    low, high = known.min(dim=0).values, known.max(dim=0).values
    slack = BEYOND * (high - low)
    return np.asarray(((values < low - slack) | (values > high + slack)).any(dim=1).numpy())


def features(images: Tensor) -> Tensor:
    """Contrast, that of the upper and of the lower half, roughness, roughness over contrast: float64 [n, 5], as logs.

    The last tells noise of a low contrast, which each of the others takes for an image.
    """
    pixels = images.double()
    half = pixels.shape[1] // 2
    contrasts = [part.flatten(1).std(dim=1) for part in (pixels, pixels[:, :half], pixels[:, half:])]
    roughness = pixels.diff(dim=2).abs().mean(dim=(1, 2, 3))
    logs = torch.stack([*contrasts, roughness], dim=1).add(1.0).log()
    return torch.cat([logs, logs[:, 3:] - logs[:, :1]], dim=1)


def moved_channels(images: Tensor, sound: Tensor) -> tuple[int, ...] | None:
    """The order of channels in which the moments of `images` are those of `sound`; None: the plain one, or unclear.

    As bright as these: a few images are brighter or darker than most, in all channels.
    """
    here, there = moments_of(images), moments_of(sound)
    here *= there[0].mean() / here[0].mean().clamp_min(1.0)
    distances = {
        order: float((here[:, list(order)] - there).abs().sum() / there[1].mean().clamp_min(1.0))
        for order in permutations(range(3))
    }
    best = min(distances, key=distances.__getitem__)
    plain = distances[(0, 1, 2)]
    return None if plain < SHIFTED or 3.0 * distances[best] > plain else best


def moments_of(images: Tensor) -> Tensor:
    """Mean and std of each channel: float64 [2, 3]."""
    pixels = images.double()
    return torch.stack([pixels.mean(dim=(0, 1, 2)), pixels.std(dim=(0, 1, 2))])
