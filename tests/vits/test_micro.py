import pytest
import torch

from saev.vits import MicroVit


@pytest.mark.parametrize("source", [MicroVit(), MicroVit(registers=3, cls_token=False, img_size=64), MicroVit(seed=2)])
@torch.no_grad()
def test_micro_is_the_same_every_time_and_as_its_shape_says(source):
    one, two = source.load(), source.load()
    images = torch.randn(2, 3, source.img_size, source.img_size)
    found = one(images, [3])[3]
    assert torch.equal(found, two(images, [3])[3])
    shape = source.shape()
    assert shape == one.anatomy.shape and found.shape[1] == sum(shape.roles.values())


def test_micro_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    MicroVit().load()
    assert torch.equal(torch.rand(3), expected)
