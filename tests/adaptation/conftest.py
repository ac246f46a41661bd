import pytest
import torch


@pytest.fixture
def texts():
    drawn = torch.Generator().manual_seed(1)
    return torch.randint(2, 258, (24, 16), generator=drawn).tolist()
