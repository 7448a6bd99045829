"""The fused decoder as the classifier uses it: the seed of a step, and what it leaves behind."""

import dataclasses
from typing import Any

import torch

from llm_cls.model.classifier import build_classifier
from tests.unit.model.test_model import config

from .networks import LENGTHS, batch, build, fused


def test_a_step_draws_its_seed_once_and_the_next_step_another() -> None:
    model = build("fast", "neox", "lora.lora_dropout=0.25")
    seeds = []
    for first_token in (0, 20, 84, 0, 0):
        model(dataclasses.replace(batch(LENGTHS), first_token=first_token))
        seeds.append(fused(model)._seed)
    assert seeds[0] == seeds[1] == seeds[2] and len(set(seeds)) == 3


def test_a_decoder_that_was_frozen_is_trained_as_a_whole_by_the_next_run() -> None:
    first = build("fast", "neox")
    decoder = first.release()
    made = config("engine=fast", "lora=full", "data.max_length=64")
    second = build_classifier(decoder, made, 5, gradient_checkpointing=False)
    total, trained = second.count_parameters()
    assert trained == total and second.encoder.layers == "packed"


def test_a_released_decoder_computes_the_same_as_before() -> None:
    model = build("fast", "llama", "lora.target_modules=all-linear")
    fresh: Any = build("reference", "llama", "lora=none").decoder
    ids = torch.arange(4, 20)[None]
    released: Any = model.release()
    with torch.no_grad():
        torch.testing.assert_close(released(ids).last_hidden_state, fresh(ids).last_hidden_state)
