"""The formulas of plain rounding, on groups that were worked out by hand."""

import unittest

import numpy

import expected
from reader import Scheme


def rounded(row, bits, symmetric=False, group_size=-1):
    """Codes, zero points and bits of the scales of a matrix of one row."""
    layer = expected.round_to_nearest([row], Scheme(bits, group_size, symmetric))
    scales = layer.scales.view(numpy.uint16)
    return layer.codes[0].tolist(), layer.zeros[0].tolist(), scales[0].tolist()


class ExpectedTest(unittest.TestCase):
    def test_toy_group(self):
        row = [-0.7, 0.05, 0.31, 1.4, -0.2, 0, 0.9, -0.44]
        self.assertEqual(rounded(row, 4), ([0, 5, 7, 15, 4, 5, 11, 2], [5], [0x307B]))
        numpy.testing.assert_allclose(
            expected.round_to_nearest([row], Scheme(4, -1, False)).weight[0],
            [-0.700073, 0, 0.280029, 1.400146, -0.140015, 0, 0.840088, -0.420044], atol=5e-7)

    def test_symmetric(self):
        # 0.7 / 7 is 0x2e66 as float16, a little less than 0.1: -0.7 is -7.0017 steps.
        self.assertEqual(rounded([-0.7, 0.35, 0.1], 4, True), ([1, 12, 9], [8], [0x2E66]))
        # Two bits: one step to either side of zero, and none is ever at -2.
        self.assertEqual(rounded([-1, 0.6, 0.4], 2, True), ([1, 3, 2], [2], [0x3C00]))

    def test_the_scale_is_rounded_before_anything_is_made_from_it(self):
        # 1 / 3 is 0.333251953125 as float16: 0.5 is 1.5004 steps, and 0.16665 is 0.50007.
        self.assertEqual(rounded([1, 0.5, 0.16665], 2), ([3, 3, 2], [1], [0x3555]))

    def test_halves_go_to_even(self):
        # Scale 0.125. Zero point 7: the range is -0.875 to 1.
        self.assertEqual(rounded([-0.875, 1, 0.0625, 0.1875, -0.0625, -0.1875], 4),
                         ([0, 15, 7, 9, 7, 5], [7], [0x3000]))
        self.assertEqual(rounded([-0.9375, 0.9375], 4)[1], [8])  # 7.5
        self.assertEqual(rounded([-0.8125, 1.0625], 4)[1], [6])  # 6.5

    def test_ranges_hold_zero_and_zero_points_are_at_least_one(self):
        # Scale 0.5; with zero point 1, 1.5 is out of reach.
        self.assertEqual(rounded([1.5, 0.1], 2), ([3, 1], [1], [0x3800]))
        self.assertEqual(rounded([-1.5, -0.5], 2), ([0, 2], [3], [0x3800]))

    def test_a_group_of_zeros_has_a_scale(self):
        # 2 / 15 is 0.13330078125 as float16; 1 / that is 7.502.
        self.assertEqual(rounded([0, 0], 4), ([8, 8], [8], [0x3044]))
        self.assertEqual(rounded([0, 0], 4, True), ([8, 8], [8], [0x3092]))  # 1 / 7

    def test_scales_are_not_zero(self):
        self.assertEqual(rounded([1e-9, -1e-9], 4), ([1, 1], [1], [0x0001]))

    def test_groups_are_rounded_alone(self):
        self.assertEqual(rounded([-1.5, -0.5, 0.75, 0], 2, group_size=2),
                         ([0, 2, 3, 1], [3, 1], [0x3800, 0x3400]))


if __name__ == "__main__":
    unittest.main()
