#pragma once

#include "torch/types.h"

namespace teq::pack {

/// Packs codes of 2, 3, 4 or 8 bits into int32 words along the first dimension, dense and least
/// significant bit first: code j of a column occupies bits b*j to b*j + b - 1 of the column's bit
/// stream, so that 3-bit codes straddle words; what is left of the last word is 0. `codes`: uint8
/// [n, columns]. Returns [ceil(n * bits / 32), columns].
[[nodiscard]] torch::Tensor PackRows(const torch::Tensor& codes, int bits);

/// The same along the second dimension: [rows, n] becomes [rows, ceil(n * bits / 32)].
[[nodiscard]] torch::Tensor PackColumns(const torch::Tensor& codes, int bits);

}  // namespace teq::pack
