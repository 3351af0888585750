#include "worker/engine/pack/bit_packing.h"

#include <algorithm>
#include <cstdint>

#include "ATen/Parallel.h"
#include "worker/engine/pack/packing_kernels.h"

namespace teq::pack {

namespace {

// Rows of one task of a thread.
constexpr std::int64_t kRowsPerTask = 16;

std::int64_t WordsFor(std::int64_t codes, int bits) { return (codes * bits + 31) / 32; }

}  // namespace

torch::Tensor PackRows(const torch::Tensor& codes, int bits) {
  const torch::Tensor source = codes.contiguous();
  const std::int64_t columns = source.size(1);
  torch::Tensor words = torch::empty({WordsFor(source.size(0), bits), columns}, torch::kInt32);
  // Codes of 32 rows fill `bits` words, so a block of rows touches no other block's words.
  at::parallel_for(0, (source.size(0) + 31) / 32, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto* in = source.data_ptr<std::uint8_t>();
    auto* out = reinterpret_cast<std::uint32_t*>(words.data_ptr<std::int32_t>());
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t row = block * 32;
      cpu::PackRowsBlock(in + row * columns, std::min<std::int64_t>(32, source.size(0) - row),
                         columns, bits, out + block * bits * columns);
    }
  });
  return words;
}

torch::Tensor PackColumns(const torch::Tensor& codes, int bits) {
  const torch::Tensor source = codes.contiguous();
  const std::int64_t columns = source.size(1);
  const std::int64_t width = WordsFor(columns, bits);
  torch::Tensor words = torch::empty({source.size(0), width}, torch::kInt32);
  at::parallel_for(0, source.size(0), kRowsPerTask, [&](std::int64_t begin, std::int64_t end) {
    auto* out = reinterpret_cast<std::uint32_t*>(words.data_ptr<std::int32_t>());
    for (std::int64_t row = begin; row < end; ++row) {
      cpu::PackRow(source.data_ptr<std::uint8_t>() + row * columns, columns, bits,
                   out + row * width);
    }
  });
  return words;
}

}  // namespace teq::pack
