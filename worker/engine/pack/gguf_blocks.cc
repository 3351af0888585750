// Layouts of ggml's blocks (ggml-common.h of the ggml project): a field of codes beside a float16
// scale d. `B` is the number of blocks of a row.
#include "worker/engine/pack/gguf_blocks.h"

#include <initializer_list>
#include <vector>

#include "client/model_info/gguf_error.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/types.h"

namespace teq::pack {
namespace {

using torch::Tensor;

/// A float16 value for every block, from one for every group: [out, B, 1].
Tensor PerBlock(const Tensor& by_group, std::int64_t blocks) {
  return by_group.repeat_interleave(blocks / by_group.size(1), 1)
      .to(torch::kFloat16)
      .unsqueeze(-1)
      .contiguous();
}

/// The last dimension as several.
Tensor Unfold(const Tensor& values, std::initializer_list<std::int64_t> extents) {
  std::vector<std::int64_t> shape(values.sizes().begin(), values.sizes().end() - 1);
  shape.insert(shape.end(), extents);
  return values.reshape(shape);
}

Tensor Bytes(const Tensor& values) { return values.contiguous().view(torch::kUInt8); }

/// [out, B, 32] codes to [out, B, 16]: byte j holds code j below code j + 16.
Tensor PackNibbles(const Tensor& codes) {
  const Tensor halves = Unfold(codes, {2, 16});
  return halves.select(-2, 0).bitwise_or(halves.select(-2, 1) * 16);
}

/// [out, B, 256] digits 0 to 3 to [out, B, 64]: of each half, byte m holds digits m, m + 32, m + 64
/// and m + 96 from its lowest bits up.
Tensor PackQuarters(const Tensor& digits) {
  const Tensor parts = Unfold(digits, {2, 4, 32});
  Tensor bytes = parts.select(-2, 0).clone();
  for (int i = 1; i < 4; ++i) bytes.bitwise_or_(parts.select(-2, i) * (1 << (2 * i)));
  return bytes.flatten(-2);
}

/// [out, B, n, m] digits 0 to 2 to [out, B, m]: the n digits of each byte as a number of base 3 of
/// five digits, the last ones 0, stretched from 243 to 256 so that digits can be read by
/// multiplication.
Tensor PackTrits(const Tensor& digits) {
  Tensor value = torch::zeros_like(digits.select(-2, 0), torch::kInt32);
  for (int i = 0; i < 5; ++i) {
    value.mul_(3);
    if (i < digits.size(-2)) value.add_(digits.select(-2, i));
  }
  return value.mul_(256).add_(242).div_(243, "floor").to(torch::kUInt8);
}

Tensor PackAllTrits(const Tensor& digits) {
  return torch::cat({PackTrits(Unfold(digits.slice(-1, 0, 160), {5, 32})),
                     PackTrits(Unfold(digits.slice(-1, 160, 240), {5, 16})),
                     PackTrits(Unfold(digits.slice(-1, 240, 256), {4, 4}))},
                    -1);
}

absl::StatusOr<Tensor> Offsets(const quant::Quantized& quantized) {
  const Tensor offsets =
      (-quantized.zeros.to(torch::kFloat32) * quantized.scales.to(torch::kFloat32))
          .to(torch::kFloat16);
  if (torch::isfinite(offsets.to(torch::kFloat32)).all().item<bool>()) return offsets;
  return Error(
      absl::StatusCode::kInvalidArgument, "NOT_REPRESENTABLE",
      "a zero point times its scale exceeds float16's range, which GGUF's Q4_1 holds it in");
}

}  // namespace

absl::StatusOr<GgufType> TypeOf(const LayerGrid& grid, const quant::Quantized& quantized) {
  if (grid.bits == 4) return grid.symmetric ? GgufType::kQ4_0 : GgufType::kQ4_1;
  if (grid.bits == 8 && grid.symmetric) return GgufType::kQ8_0;
  if (grid.bits == 2 && grid.symmetric) {
    return quantized.codes.eq(0).any().item<bool>() ? GgufType::kTq2_0 : GgufType::kTq1_0;
  }
  return model_info::GgufCannotHold(fmt::format("it has no type for {}-bit {} codes", grid.bits,
                                                grid.symmetric ? "symmetric" : "asymmetric"));
}

absl::StatusOr<Tensor> EncodeBlocks(GgufType type, const quant::Quantized& quantized) {
  const GgufBlock block = BlockOf(type);
  const Tensor all_codes = quantized.codes.to(torch::kCPU);
  const std::int64_t blocks = all_codes.size(1) / block.values;
  if (all_codes.size(1) % block.values != 0 || blocks % quantized.scales.size(1) != 0) {
    return model_info::GgufCannotHold(
        fmt::format("groups of {} codes are no multiple of a block's {}",
                    all_codes.size(1) / quantized.scales.size(1), block.values));
  }
  const Tensor codes = Unfold(all_codes, {blocks, block.values});
  const Tensor scales = PerBlock(quantized.scales.to(torch::kCPU), blocks);
  std::vector<Tensor> parts;
  switch (type) {
    case GgufType::kQ4_0:
      parts = {Bytes(scales), PackNibbles(codes)};
      break;
    case GgufType::kQ4_1: {
      TEQ_ASSIGN_OR_RETURN(const Tensor offsets, Offsets(quantized));
      parts = {Bytes(scales), Bytes(PerBlock(offsets.to(torch::kCPU), blocks)), PackNibbles(codes)};
      break;
    }
    case GgufType::kQ8_0:
      // Code 128 is the value 0; the bytes are signed.
      parts = {Bytes(scales), codes.bitwise_xor(0x80)};
      break;
    case GgufType::kTq1_0:
      parts = {PackAllTrits(codes - 1), Bytes(scales)};
      break;
    case GgufType::kTq2_0:
      // Values are d * (digit - 1), at most 2 d: the sign of d lets that be the code 0, -2.
      parts = {PackQuarters(3 - codes), Bytes(-scales)};
      break;
    default:
      return Error(absl::StatusCode::kInternal, "WRITE_FAILED", "a float type has no blocks");
  }
  return torch::cat(parts, -1).flatten(1);
}

Tensor EncodeFloats(GgufType type, const Tensor& values) {
  const torch::ScalarType stored = type == GgufType::kF32    ? torch::kFloat32
                                   : type == GgufType::kBF16 ? torch::kBFloat16
                                                             : torch::kFloat16;
  return Bytes(values.to(torch::kCPU, stored).flatten());
}

}  // namespace teq::pack
