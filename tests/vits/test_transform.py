import numpy as np
import pytest
import torch
from PIL import Image

from saev.vits.transform import ImageTransform

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_values_are_normalised_channels_first():
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    found = ImageTransform((2, 3), mean, std)(Image.new("RGB", (3, 2), (255, 0, 51)))
    expected = (np.array([1, 0, 0.2]) - mean) / std
    assert found.shape == (3, 2, 3) and found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(expected[:, None, None], (3, 2, 3)), atol=1e-6)


def test_agrees_with_the_usual_resize_then_centre_crop():
    from torchvision.transforms import v2

    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((300, 188), Image.Resampling.BICUBIC)
    usual = v2.Compose([v2.Resize(64, v2.InterpolationMode.BICUBIC), v2.CenterCrop(64)])(image)
    ours = ImageTransform((64, 64), *HALF)(image)
    theirs = torch.from_numpy(np.array(usual)).permute(2, 0, 1) / 127.5 - 1
    # the same picture up to half a pixel of rounding in the usual crop
    assert (ours - theirs).abs().mean() < 0.03
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.995


@pytest.mark.parametrize("size", [(10, 4), (4, 10), (7, 7), (1, 50), (50, 1), (1, 1)])
@pytest.mark.parametrize("target", [(8, 8), (6, 12)])
def test_crop_is_centred_inside_and_has_the_target_s_aspect(size, target):
    left, top, right, bottom = ImageTransform(target, *HALF).box(*size)
    assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]
    assert left + right == pytest.approx(size[0]) and top + bottom == pytest.approx(size[1])
    assert (right - left) / (bottom - top) == pytest.approx(target[1] / target[0])
    assert right - left == pytest.approx(size[0]) or bottom - top == pytest.approx(size[1])


def test_a_sliver_costs_what_any_picture_costs():
    assert ImageTransform((224, 224), *HALF)(Image.new("RGB", (60_000, 1))).shape == (3, 224, 224)


def test_masks_stay_aligned_with_images():
    ids = np.zeros((40, 90), np.uint8)
    ids[:, 45:] = 7
    image = Image.fromarray(np.repeat(np.where(ids == 7, 255, 0).astype(np.uint8)[..., None], 3, 2))
    for resize in ("crop", "squash"):
        transform = ImageTransform((16, 24), *HALF, resize=resize)
        assert np.array_equal(transform.mask(ids) == 7, transform(image)[0].numpy() > 0)


def test_squash_sees_the_whole_picture():
    assert ImageTransform((8, 8), *HALF, resize="squash").box(30, 10) == (0, 0, 30, 10)
