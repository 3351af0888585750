#include <string>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "torch/utils.h"
#include "worker/engine/verify/fields.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {
namespace {

absl::Status CheckForms(int bits, const torch::Tensor& qweight, const torch::Tensor& qzeros,
                        const torch::Tensor& scales, const torch::Tensor& g_idx) {
  TEQ_RETURN_IF_ERROR(CheckBits(bits));
  TEQ_RETURN_IF_ERROR(CheckMatrix("qweight", qweight));
  TEQ_RETURN_IF_ERROR(CheckMatrix("scales", scales));
  const std::int64_t columns = g_idx.numel();
  const std::int64_t outputs = qweight.size(1);
  const std::int64_t groups = scales.size(0);
  if (columns * bits % 32 != 0) {
    return Bad("g_idx",
               fmt::format("has {} entries, whose codes of {} bits do not fill whole words",
                           columns, bits));
  }
  if (outputs * bits % 32 != 0) {
    return Bad("qzeros",
               fmt::format("cannot hold {} zero points of {} bits in whole words", outputs, bits));
  }
  if (columns % groups != 0) {
    return Bad("scales",
               fmt::format("has {} groups, which do not divide {} columns", groups, columns));
  }
  TEQ_RETURN_IF_ERROR(CheckForm("g_idx", g_idx, torch::kInt32, {columns}));
  TEQ_RETURN_IF_ERROR(CheckForm("qweight", qweight, torch::kInt32, {columns * bits / 32, outputs}));
  TEQ_RETURN_IF_ERROR(CheckForm("scales", scales, torch::kFloat16, {groups, outputs}));
  return CheckForm("qzeros", qzeros, torch::kInt32, {groups, outputs * bits / 32});
}

absl::Status CheckValues(int bits, const torch::Tensor& scales, const torch::Tensor& g_idx,
                         const torch::Tensor& zeros) {
  TEQ_RETURN_IF_ERROR(CheckFinite("scales", scales));
  if (const torch::Tensor bad = g_idx.lt(0).logical_or_(g_idx.ge(scales.size(0)));
      bad.any().item<bool>()) {
    return Bad("g_idx", fmt::format("is {} at {}, but there are {} groups",
                                    g_idx.masked_select(bad)[0].item<std::int32_t>(),
                                    FirstIndex(bad), scales.size(0)));
  }
  // A stored zero point of all ones means 2^bits, or 0 that wrapped: loaders disagree.
  if (const torch::Tensor bad = zeros.gt((1 << bits) - 1); bad.any().item<bool>()) {
    return Bad("qzeros", fmt::format("means a zero point of {} at {}; expected 1 to {}", 1 << bits,
                                     FirstIndex(bad), (1 << bits) - 1));
  }
  return absl::OkStatus();
}

absl::StatusOr<UnpackedLayer> Unpack(int bits, const torch::Tensor& qweight,
                                     const torch::Tensor& qzeros, const torch::Tensor& scales,
                                     const torch::Tensor& g_idx) {
  torch::NoGradGuard no_grad;
  TEQ_RETURN_IF_ERROR(CheckForms(bits, qweight, qzeros, scales, g_idx));
  // Zero points run along the row, so the row is the stream. [groups, out]
  const torch::Tensor zeros =
      ReadFields(qzeros.t(), bits, scales.size(1)).t().to(torch::kInt32).add_(1).contiguous();
  TEQ_RETURN_IF_ERROR(CheckValues(bits, scales, g_idx, zeros));

  UnpackedLayer layer;
  layer.bits = bits;
  layer.group_size = g_idx.numel() / scales.size(0);
  layer.codes = ReadFields(qweight, bits, g_idx.numel()).t().contiguous();
  layer.scales = scales.t().contiguous();
  layer.zeros = zeros.t().contiguous();
  const torch::Tensor group = g_idx.to(torch::kInt64);
  layer.weight = layer.codes.to(torch::kFloat32)
                     .sub_(layer.zeros.to(torch::kFloat32).index_select(1, group))
                     .mul_(layer.scales.to(torch::kFloat32).index_select(1, group));
  return layer;
}

}  // namespace

absl::StatusOr<UnpackedLayer> UnpackGptq(int bits, const torch::Tensor& qweight,
                                         const torch::Tensor& qzeros, const torch::Tensor& scales,
                                         const torch::Tensor& g_idx) {
  try {
    return Unpack(bits, qweight, qzeros, scales, g_idx);
  } catch (const c10::Error& error) {
    return Bad("packed tensors", error.what_without_backtrace());
  }
}

}  // namespace teq::verify
