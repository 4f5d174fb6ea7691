"""Columns of features in e3nn's notation as scalars, vectors and tensors."""

from __future__ import annotations

import torch

from les_plugins.model.irreps import concatenated_features, layer_features, layer_layout


def test_channels_are_counted_wherever_they_stand():
    assert layer_layout("4x0e+2x1o+3x0e+1x2e") == (7, 2, 1)
    assert layer_layout("8x0e") == (8, 0, 0)


def test_irreps_that_no_head_reads_are_passed_over():
    assert layer_layout("4x0e+4x0o+2x1e+1x3o") == (4, 0, 0)
    assert layer_layout("4x0e+2x1e", vector="1e") == (4, 2, 0)


def test_blocks_of_one_irrep_come_together_in_their_order():
    values = torch.arange(2 * 20.0).view(2, 20)  # 2x0e, 1x1o, 3x1e, 1x0e, 1x2e
    found = layer_features(values, "2x0e+1x1o+3x1e+1x0e+1x2e")
    assert found.scalars.tolist() == values[:, [0, 1, 14]].tolist()
    assert found.vectors is not None
    assert found.vectors.tolist() == values[:, None, 2:5].tolist()
    assert found.tensors is not None
    assert found.tensors.tolist() == values[:, None, 15:20].tolist()


def test_channels_of_vectors_hold_their_components_together():
    values = torch.arange(7.0).view(1, 7)
    found = layer_features(values, "1x0e+2x1o")
    assert found.vectors is not None
    assert found.vectors.tolist() == [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]
    assert found.tensors is None


def test_components_that_stand_first_are_read_as_channels_that_stand_first():
    generator = torch.Generator().manual_seed(0)
    irreps = "3x0e+2x1o+4x2e"
    blocks = [torch.randn(5, channels, size, generator=generator) for channels, size in ((3, 1), (2, 3), (4, 5))]
    channels_first = torch.cat([block.flatten(1) for block in blocks], 1)
    components_first = torch.cat([block.transpose(1, 2).flatten(1) for block in blocks], 1)
    (found,) = concatenated_features(components_first, [irreps], components_first=True)
    for mine, expected in zip(found, layer_features(channels_first, irreps), strict=True):
        assert torch.equal(mine, expected)
    wrong = layer_features(components_first, irreps).vectors
    assert wrong is not None
    assert not torch.equal(wrong, blocks[1])
