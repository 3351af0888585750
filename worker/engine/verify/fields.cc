#include "worker/engine/verify/fields.h"

#include <numeric>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"

namespace teq::verify {

absl::Status Bad(std::string_view message) {
  return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED", message);
}

absl::Status Bad(std::string_view tensor, std::string_view message) {
  return Bad(fmt::format("{}: {}", tensor, message));
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

absl::Status CheckMatrix(std::string_view name, const torch::Tensor& tensor) {
  if (tensor.dim() == 2 && tensor.numel() > 0) return absl::OkStatus();
  return Bad(name, fmt::format("has shape [{}]; expected two dimensions, none of them empty",
                               fmt::join(tensor.sizes(), ", ")));
}

absl::Status CheckBits(int bits) {
  if (bits == 2 || bits == 3 || bits == 4 || bits == 8) return absl::OkStatus();
  return Bad("bits", fmt::format("is {}; expected 2, 3, 4 or 8", bits));
}

absl::Status CheckFinite(std::string_view name, const torch::Tensor& tensor) {
  // As floats: Debian's LibTorch has no isfinite for half precision on every processor.
  const torch::Tensor bad = torch::isfinite(tensor.to(torch::kFloat32)).logical_not_();
  if (!bad.any().item<bool>()) return absl::OkStatus();
  return Bad(name, fmt::format("is not finite at {}", FirstIndex(bad)));
}

torch::Tensor ReadFields(const torch::Tensor& words, int bits, std::int64_t fields) {
  const int common = std::gcd(bits, 32);
  const int period_words = bits / common;  // fields and words meet again after so many
  const int period_fields = 32 / common;
  const std::int64_t periods = (fields + period_fields - 1) / period_fields;
  const std::int64_t missing = periods * period_words - words.size(0);
  torch::Tensor source = words;
  if (missing > 0) source = torch::cat({words, words.new_zeros({missing, words.size(1)})});
  source = source.contiguous().view({periods, period_words, words.size(1)});
  torch::Tensor values =
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
    values.select(1, field).copy_(value);
  }
  return values.view({periods * period_fields, words.size(1)}).narrow(0, 0, fields);
}

std::string FirstIndex(const torch::Tensor& wrong) {
  const torch::Tensor index = wrong.nonzero()[0];
  return fmt::format("[{}]", fmt::join(index.data_ptr<std::int64_t>(),
                                       index.data_ptr<std::int64_t>() + index.numel(), ", "));
}

torch::Tensor WeightOf(const torch::Tensor& codes, const torch::Tensor& scales,
                       const torch::Tensor& zeros) {
  const std::int64_t group = codes.size(1) / scales.size(1);
  return codes.to(torch::kFloat32)
      .view({codes.size(0), scales.size(1), group})
      .sub_(zeros.to(torch::kFloat32).unsqueeze(2))
      .mul_(scales.to(torch::kFloat32).unsqueeze(2))
      .view({codes.size(0), codes.size(1)});
}

}  // namespace teq::verify
