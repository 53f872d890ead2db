"""Position embeddings and tables are resized as the source library resizes them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmlora.io.resize import POSITIONS, resize_bias_table, resize_positions

D = 5


def table(rows: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(1, rows, D, generator=torch.Generator().manual_seed(0), dtype=dtype)


def by_timm(positions, size):
    resample = pytest.importorskip('timm.layers').resample_abs_pos_embed
    return resample(positions, list(size), num_prefix_tokens=1)


def by_zoom(positions, size):
    """The published code: linear between corners."""
    grid = positions[0, 1:].reshape(4, 4, D).numpy()
    rows, columns = (np.linspace(0, 3, n) for n in size)
    out = np.empty((*size, D), np.float32)
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            a, b = min(int(r), 2), min(int(c), 2)
            u, v = r - a, c - b
            out[i, j] = ((1 - u) * (1 - v) * grid[a, b] + u * (1 - v) * grid[a + 1, b] + (1 - u) * v * grid[a, b + 1]
                         + u * v * grid[a + 1, b + 1])  # fmt: skip
    return torch.cat([positions[:, :1], torch.from_numpy(out).reshape(1, -1, D)], 1)


def by_transformers(positions, size):
    """ViTModel's own function, which takes pixels."""
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTConfig(hidden_size=D, num_attention_heads=1, image_size=32, patch_size=8,
                                    num_hidden_layers=1, intermediate_size=4)  # fmt: skip
    embeddings = transformers.ViTModel(config).embeddings
    embeddings.position_embeddings.data = positions
    return embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + size[0] * size[1], D), size[0] * 8, size[1] * 8)


def by_dino(positions, size):
    """As the published code: a scale factor with an offset of 0.1, not a size."""
    grid = positions[:, 1:].reshape(1, 4, 4, D).permute(0, 3, 1, 2)
    factors = ((size[0] + 0.1) / 4, (size[1] + 0.1) / 4)
    maps = F.interpolate(grid, scale_factor=factors, mode='bicubic')
    assert tuple(maps.shape[2:]) == tuple(size)
    return torch.cat([positions[:, :1], maps.permute(0, 2, 3, 1).reshape(1, -1, D)], 1)


REFERENCES = {'antialias': by_timm, 'google': by_zoom, 'bicubic': by_transformers, 'dino': by_dino}


@pytest.mark.parametrize('size', [(7, 7), (3, 3), (4, 6), (2, 5)])
@pytest.mark.parametrize('how', REFERENCES)
def test_as_the_source_library(how, size):
    positions = table(17)
    found = resize_positions(positions, size, 1, 1, how)
    torch.testing.assert_close(found, REFERENCES[how](positions, size), rtol=0, atol=2e-6)


def test_every_way_is_compared_and_differs():
    assert set(REFERENCES) == set(POSITIONS)
    found = [resize_positions(table(17), (7, 7), 1, 1, how) for how in POSITIONS]
    for i, first in enumerate(found):
        assert all((first - other).abs().max() > 1e-3 for other in found[i + 1 :])


@pytest.mark.parametrize('how', POSITIONS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.float64])
def test_types_are_kept(how, dtype):
    assert resize_positions(table(17, torch.float32).to(dtype), (3, 5), 1, 1, how).dtype == dtype


CASES = {  # rows of the file, size, extra, own extra, source, expected
    'same grid': (17, (4, 4), 1, 1, None, lambda t: t),
    'same number, not square': (13, (3, 4), 1, 1, None, lambda t: t),
    'no class token in the model': (17, (4, 4), 1, 0, None, lambda t: t[:, 1:]),
    'distillation token left out': (18, (4, 4), 2, 1, None, lambda t: torch.cat([t[:, :1], t[:, 2:]], 1)),
    'class token without position': (
        16, (4, 4), 1, 1, None, lambda t: torch.cat([torch.zeros(1, 1, D), t], 1)),
    'given source': (13, (3, 4), 1, 1, (3, 4), lambda t: t),
    'no tokens at all': (16, (4, 4), 0, 0, None, lambda t: t),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_tokens_before_the_patches(case):
    rows, size, extra, own, source, expected = CASES[case]
    assert torch.equal(resize_positions(table(rows), size, extra, own, 'bicubic', source), expected(table(rows)))


def test_a_source_that_is_not_square():
    found = resize_positions(table(13), (6, 8), 1, 1, 'bicubic', (3, 4))
    maps = table(13)[:, 1:].reshape(1, 3, 4, D).permute(0, 3, 1, 2)
    expected = F.interpolate(maps, size=(6, 8), mode='bicubic').permute(0, 2, 3, 1).reshape(1, 48, D)
    torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ((table(13), (7, 7), 1, 1, 'bicubic'), '13 rows, 1 of them before.*7 x 7.*source_grid='),
        ((table(13), (7, 7), 1, 1, 'bicubic', (4, 4)), '13 rows, which is not 4 x 4 patches and 1 more'),
        ((table(16), (4, 4), 0, 1, 'bicubic'), 'the model has 1 tokens before the patches, the file 0'),
    ],
)
def test_a_grid_that_cannot_be_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        resize_positions(*arguments)


@pytest.mark.parametrize('window', [2, 6, 7])
def test_bias_tables(window):
    bias = torch.randn(49, 3, generator=torch.Generator().manual_seed(0))
    count = (2 * window - 1) ** 2
    resize = pytest.importorskip('timm.layers').resize_rel_pos_bias_table
    expected = resize(bias, new_window_size=(window, window), new_bias_shape=(count, 3))
    torch.testing.assert_close(resize_bias_table(bias, count, 'antialias'), expected, rtol=0, atol=1e-4)
    maps = bias.T.reshape(1, 3, 7, 7)
    side = 2 * window - 1
    expected = F.interpolate(maps, size=(side, side), mode='bicubic').reshape(3, -1).T
    torch.testing.assert_close(resize_bias_table(bias, count, 'bicubic'), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='has 49 rows, the model 50'):
        resize_bias_table(bias, 50, 'bicubic')
