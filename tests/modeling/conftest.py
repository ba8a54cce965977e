import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Many small operations: OpenMP's threads waiting for each other on a busy machine would take most of the time."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
