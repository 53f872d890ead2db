"""Golden draws, for the tests of few-shot data sets."""

import json

import pytest


@pytest.fixture(scope='session')
def golden_draws(golden):
    """Lists of images, and what the published codes draw from them by shots and seed."""
    return json.loads((golden / 'clip_lora' / 'fewshot_sampling_synthetic.json').read_text())
