// Written from ggml's description of its blocks, value by value, as its own readers go.
#include "worker/engine/verify/gguf_blocks.h"

#include <array>
#include <cmath>
#include <cstring>

#include "ATen/Parallel.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/types.h"

namespace teq::verify {
namespace {

constexpr std::uint32_t kF32 = 0;
constexpr std::uint32_t kF16 = 1;

/// What a block holds: value i is scale * (codes[i] - zero) + offset.
struct Block {
  c10::Half scale;
  float offset = 0;
  std::array<std::uint8_t, 256> codes;
};

c10::Half ReadHalf(const std::uint8_t* bytes) {
  c10::Half half;
  std::memcpy(&half.x, bytes, sizeof(half.x));
  return half;
}

void ReadNibbles(const std::uint8_t* bytes, Block& block) {
  for (std::size_t i = 0; i < 32; ++i) {
    block.codes[i] = i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4;
  }
}

void ReadQ40(const std::uint8_t* bytes, Block& block) {
  block.scale = ReadHalf(bytes);
  ReadNibbles(bytes + 2, block);
}

void ReadQ41(const std::uint8_t* bytes, Block& block) {
  block.scale = ReadHalf(bytes);
  block.offset = static_cast<float>(ReadHalf(bytes + 2));
  ReadNibbles(bytes + 4, block);
}

void ReadQ80(const std::uint8_t* bytes, Block& block) {
  block.scale = ReadHalf(bytes);
  // Signed bytes; their codes are 128 above.
  for (std::size_t i = 0; i < 32; ++i) {
    block.codes[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(bytes[2 + i]) + 128);
  }
}

/// The n-th trit of a byte: the byte is a fraction of 256, and a trit its next digit of base 3.
std::uint8_t Trit(std::uint8_t byte, int n) {
  unsigned fraction = byte;
  for (int i = 0; i < n; ++i) fraction = fraction * 3 % 256;
  return static_cast<std::uint8_t>(fraction * 3 / 256);
}

void ReadTq10(const std::uint8_t* bytes, Block& block) {
  for (int i = 0; i < 160; ++i) block.codes[i] = Trit(bytes[i % 32], i / 32);
  for (int i = 0; i < 80; ++i) block.codes[160 + i] = Trit(bytes[32 + i % 16], i / 16);
  for (int i = 0; i < 16; ++i) block.codes[240 + i] = Trit(bytes[48 + i % 4], i / 4);
  block.scale = ReadHalf(bytes + 52);
}

void ReadTq20(const std::uint8_t* bytes, Block& block) {
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int place = i % 128;
    block.codes[i] = bytes[half * 32 + place % 32] >> (2 * (place / 32)) & 3;
  }
  block.scale = ReadHalf(bytes + 64);
}

struct Layout {
  std::uint32_t type;
  int bits;
  int values;
  int bytes;
  int zero;
  bool has_offset;
  void (*read)(const std::uint8_t* bytes, Block& block);
};
constexpr std::array kLayouts = {
    Layout{2, 4, 32, 18, 8, false, ReadQ40},    Layout{3, 4, 32, 20, 0, true, ReadQ41},
    Layout{8, 8, 32, 34, 128, false, ReadQ80},  Layout{34, 2, 256, 54, 1, false, ReadTq10},
    Layout{35, 2, 256, 66, 1, false, ReadTq20},
};

const Layout* FindLayout(std::uint32_t type) {
  for (const Layout& layout : kLayouts) {
    if (layout.type == type) return &layout;
  }
  return nullptr;
}

void DecodeRows(const Layout& layout, const GgufFile::Tensor& tensor, UnpackedLayer& layer) {
  const std::int64_t columns = layer.codes.size(1);
  const std::int64_t blocks = columns / layout.values;
  auto* codes = layer.codes.data_ptr<std::uint8_t>();
  auto* scales = layer.scales.data_ptr<c10::Half>();
  auto* weight = layer.weight.data_ptr<float>();
  at::parallel_for(0, layer.codes.size(0) * blocks, 256, [&](std::int64_t begin, std::int64_t end) {
    Block block{};
    for (std::int64_t i = begin; i < end; ++i) {
      layout.read(tensor.data + i * layout.bytes, block);
      const auto scale = static_cast<float>(block.scale);
      scales[i] = block.scale;
      for (std::int64_t j = 0; j < layout.values; ++j) {
        const std::uint8_t code = block.codes[static_cast<std::size_t>(j)];
        codes[i * layout.values + j] = code;
        weight[i * layout.values + j] =
            scale * static_cast<float>(code - layout.zero) + block.offset;
      }
    }
  });
}

}  // namespace

bool HoldsCodes(const GgufFile::Tensor& tensor) { return FindLayout(tensor.type) != nullptr; }

absl::StatusOr<UnpackedLayer> DecodeBlocks(const GgufFile::Tensor& tensor) {
  const Layout& layout = *FindLayout(tensor.type);
  if (tensor.shape.size() != 2) {
    return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED",
                 fmt::format("holds codes and has {} extents; expected 2", tensor.shape.size()));
  }
  const std::int64_t blocks = tensor.shape[1] / layout.values;
  UnpackedLayer layer;
  layer.bits = layout.bits;
  layer.group_size = layout.values;
  layer.codes = torch::empty(tensor.shape, torch::kUInt8);
  layer.scales = torch::empty({tensor.shape[0], blocks}, torch::kFloat16);
  layer.weight = torch::empty(tensor.shape, torch::kFloat32);
  if (!layout.has_offset) {
    layer.zeros = torch::full({tensor.shape[0], blocks}, layout.zero, torch::kInt32);
  }
  DecodeRows(layout, tensor, layer);
  if (!torch::isfinite(layer.weight).all().item<bool>()) {
    return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED",
                 "has a scale or an offset that is not finite");
  }
  return layer;
}

torch::Tensor CopyFloats(const GgufFile::Tensor& tensor) {
  const torch::ScalarType type = tensor.type == kF32   ? torch::kFloat32
                                 : tensor.type == kF16 ? torch::kFloat16
                                                       : torch::kBFloat16;
  torch::Tensor values = torch::empty(tensor.shape, type);
  std::memcpy(values.data_ptr(), tensor.data, tensor.bytes);
  return values;
}

}  // namespace teq::verify
