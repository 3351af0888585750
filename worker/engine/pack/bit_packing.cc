#include "worker/engine/pack/bit_packing.h"

#include <algorithm>
#include <cstdint>

#include "ATen/Parallel.h"

namespace teq::pack {

namespace {

std::int64_t WordsFor(std::int64_t codes, int bits) { return (codes * bits + 31) / 32; }

}  // namespace

torch::Tensor PackRows(const torch::Tensor& codes, int bits) {
  const torch::Tensor source = codes.contiguous();
  const std::int64_t columns = source.size(1);
  torch::Tensor words = torch::zeros({WordsFor(source.size(0), bits), columns}, torch::kInt32);
  // Codes of 32 rows fill `bits` words, so a block of rows touches no other block's words.
  at::parallel_for(0, (source.size(0) + 31) / 32, 1,
                   [&](std::int64_t first_block, std::int64_t last_block) {
                     const auto* in = source.data_ptr<std::uint8_t>();
                     auto* out = reinterpret_cast<std::uint32_t*>(words.data_ptr<std::int32_t>());
                     const std::int64_t last_row = std::min(last_block * 32, source.size(0));
                     for (std::int64_t row = first_block * 32; row < last_row; ++row) {
                       const std::int64_t bit = row * bits;
                       const auto shift = static_cast<unsigned>(bit % 32);
                       const std::uint8_t* code = in + row * columns;
                       std::uint32_t* low = out + bit / 32 * columns;
                       for (std::int64_t c = 0; c < columns; ++c)
                         low[c] |= std::uint32_t{code[c]} << shift;
                       if (shift + static_cast<unsigned>(bits) <= 32) continue;
                       std::uint32_t* high = low + columns;
                       for (std::int64_t c = 0; c < columns; ++c)
                         high[c] |= std::uint32_t{code[c]} >> (32 - shift);
                     }
                   });
  return words;
}

torch::Tensor PackColumns(const torch::Tensor& codes, int bits) {
  const torch::Tensor source = codes.contiguous();
  const std::int64_t columns = source.size(1);
  const std::int64_t width = WordsFor(columns, bits);
  torch::Tensor words = torch::empty({source.size(0), width}, torch::kInt32);
  at::parallel_for(0, source.size(0), 1, [&](std::int64_t first_row, std::int64_t last_row) {
    for (std::int64_t row = first_row; row < last_row; ++row) {
      const std::uint8_t* code = source.data_ptr<std::uint8_t>() + row * columns;
      auto* word = reinterpret_cast<std::uint32_t*>(words.data_ptr<std::int32_t>()) + row * width;
      std::uint64_t stream = 0;  // bits that no word holds yet
      int held = 0;
      for (std::int64_t c = 0; c < columns; ++c) {
        stream |= std::uint64_t{code[c]} << held;
        held += bits;
        if (held < 32) continue;
        *word++ = static_cast<std::uint32_t>(stream);
        stream >>= 32;
        held -= 32;
      }
      if (held > 0) *word = static_cast<std::uint32_t>(stream);
    }
  });
  return words;
}

}  // namespace teq::pack
