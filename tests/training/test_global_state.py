import os
import random
import signal

import numpy as np
import pytest
import torch

from manymask.training import plan_run, train
from manymask.training.global_state import keep_global_state
from tests.training.runs import SETTINGS, find_differences


def look() -> tuple:
    """What random generators give next, and torch's modes."""
    cudnn = torch.backends.cudnn
    modes = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    with keep_global_state():
        numbers = torch.rand(3).tolist() + np.random.rand(3).tolist() + [random.random()]
    modes += tuple(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
    return numbers, modes, cudnn.benchmark, cudnn.deterministic, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


@pytest.fixture(params=[False, True])
def before(request):
    """What the caller set: nothing, or all of it."""
    with keep_global_state():
        torch.manual_seed(77)
        np.random.seed(78)
        random.seed(79)
        torch.use_deterministic_algorithms(request.param, warn_only=request.param)
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = request.param
        yield look()


def test_train_changes_nothing_of_the_caller_s_and_the_caller_nothing_of_training(before, data, output, run):
    train(data, output=output, recipe="baseline", settings={**SETTINGS, "deterministic": True})
    assert look() == before
    assert find_differences(run / "last.ckpt", output / "last.ckpt") == []


def test_failed_training_too(before, data, output):
    with pytest.raises(Exception, match="no model 'no_such_net'"):
        train(data, output=output, recipe="baseline", settings={**SETTINGS, "backbone": "no_such_net"})
    assert look() == before


def test_plan_run_measures_a_step_and_changes_nothing(before, data):
    plan_run(data, settings=SETTINGS)
    assert look() == before
