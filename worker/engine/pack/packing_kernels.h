#pragma once

#include <cstdint>

namespace teq::pack::cpu {

/// Packs up to 32 rows of codes, [rows, columns], into ceil(rows * bits / 32) rows of words: see
/// PackRows.
void PackRowsBlock(const std::uint8_t* codes, std::int64_t rows, std::int64_t columns, int bits,
                   std::uint32_t* words);

/// Packs one row of `size` codes into ceil(size * bits / 32) words: see PackColumns.
void PackRow(const std::uint8_t* codes, std::int64_t size, int bits, std::uint32_t* words);

}  // namespace teq::pack::cpu
