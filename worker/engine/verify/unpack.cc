#include <numeric>
#include <string>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "torch/torch.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {
namespace {

absl::Status Bad(std::string_view tensor, std::string_view message) {
  return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED",
               fmt::format("{}: {}", tensor, message));
}

absl::Status CheckForm(std::string_view name, const torch::Tensor& tensor, torch::ScalarType dtype,
                       std::vector<std::int64_t> shape) {
  if (tensor.scalar_type() != dtype) {
    return Bad(name, fmt::format("has type {}; expected {}", c10::toString(tensor.scalar_type()),
                                 c10::toString(dtype)));
  }
  if (tensor.sizes() != c10::IntArrayRef(shape)) {
    return Bad(name, fmt::format("has shape [{}]; expected [{}]", fmt::join(tensor.sizes(), ", "),
                                 fmt::join(shape, ", ")));
  }
  return absl::OkStatus();
}

/// Reads each column of `words` (int32 [rows, columns]) as a little-endian bit stream of fields of
/// `bits` bits without gaps: uint8 [rows * 32 / bits, columns]. `rows` fill whole fields.
torch::Tensor ReadFields(const torch::Tensor& words, int bits) {
  const int common = std::gcd(bits, 32);
  const int period_words = bits / common;  // fields and words meet again after so many
  const int period_fields = 32 / common;
  const std::int64_t periods = words.size(0) / period_words;
  const torch::Tensor source = words.contiguous().view({periods, period_words, words.size(1)});
  torch::Tensor fields =
      torch::empty({periods, period_fields, words.size(1)}, torch::dtype(torch::kUInt8));
  const int mask = (1 << bits) - 1;
  for (int field = 0; field < period_fields; ++field) {
    const int word = field * bits / 32;
    const int shift = field * bits % 32;
    const int low_bits = std::min(bits, 32 - shift);
    // The shift copies the sign; the mask drops the copies.
    torch::Tensor value =
        source.select(1, word).__rshift__(shift).bitwise_and_((1 << low_bits) - 1);
    if (low_bits < bits) {
      value.bitwise_or_(
          source.select(1, word + 1).bitwise_and(mask >> low_bits).__lshift__(low_bits));
    }
    fields.select(1, field).copy_(value);
  }
  return fields.view({periods * period_fields, words.size(1)});
}

/// The first index at which `wrong` is true, as "[3, 7]".
std::string FirstIndex(const torch::Tensor& wrong) {
  const torch::Tensor index = wrong.nonzero()[0];
  return fmt::format("[{}]", fmt::join(index.data_ptr<std::int64_t>(),
                                       index.data_ptr<std::int64_t>() + index.numel(), ", "));
}

absl::Status CheckForms(int bits, const torch::Tensor& qweight, const torch::Tensor& qzeros,
                        const torch::Tensor& scales, const torch::Tensor& g_idx) {
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return Bad("bits", fmt::format("is {}; expected 2, 3, 4 or 8", bits));
  }
  if (qweight.dim() != 2 || qweight.numel() == 0) {
    return Bad("qweight", fmt::format("has shape [{}]; expected two dimensions, none of them empty",
                                      fmt::join(qweight.sizes(), ", ")));
  }
  if (scales.dim() != 2 || scales.numel() == 0) {
    return Bad("scales", fmt::format("has shape [{}]; expected two dimensions, none of them empty",
                                     fmt::join(scales.sizes(), ", ")));
  }
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
  // As floats: Debian's LibTorch has no isfinite for half precision on every processor.
  if (const torch::Tensor bad = torch::isfinite(scales.to(torch::kFloat32)).logical_not_();
      bad.any().item<bool>()) {
    return Bad("scales", fmt::format("is not finite at {}", FirstIndex(bad)));
  }
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
      ReadFields(qzeros.t(), bits).t().to(torch::kInt32).add_(1).contiguous();
  TEQ_RETURN_IF_ERROR(CheckValues(bits, scales, g_idx, zeros));

  UnpackedLayer layer;
  layer.bits = bits;
  layer.group_size = g_idx.numel() / scales.size(0);
  layer.codes = ReadFields(qweight, bits).t().contiguous();
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
