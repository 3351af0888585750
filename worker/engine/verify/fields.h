#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "torch/types.h"

// What readers of all packed layouts check and take apart. Errors are DATA_LOSS, VERIFY_FAILED, and
// name the tensor, what was found and what was expected.
namespace teq::verify {

/// DATA_LOSS, VERIFY_FAILED.
[[nodiscard]] absl::Status Bad(std::string_view message);
[[nodiscard]] absl::Status Bad(std::string_view tensor, std::string_view message);

/// That the tensor has this type and shape.
[[nodiscard]] absl::Status CheckForm(std::string_view name, const torch::Tensor& tensor,
                                     torch::ScalarType dtype, std::vector<std::int64_t> shape);

/// That the tensor has two dimensions, none of them empty.
[[nodiscard]] absl::Status CheckMatrix(std::string_view name, const torch::Tensor& tensor);

[[nodiscard]] absl::Status CheckBits(int bits);

/// Of floats of any type.
[[nodiscard]] absl::Status CheckFinite(std::string_view name, const torch::Tensor& tensor);

/// Reads each column of `words` (int32 [rows, columns]) as a little-endian bit stream of fields of
/// `bits` bits without gaps; what follows the first `fields` is padding. uint8 [fields, columns].
[[nodiscard]] torch::Tensor ReadFields(const torch::Tensor& words, int bits, std::int64_t fields);

/// The first index at which `wrong` is true, as "[3, 7]".
[[nodiscard]] std::string FirstIndex(const torch::Tensor& wrong);

/// scale * (code - zero), float32 [out, in], from codes [out, in], scales and zeros [out, groups];
/// groups of equal size, in order.
[[nodiscard]] torch::Tensor WeightOf(const torch::Tensor& codes, const torch::Tensor& scales,
                                     const torch::Tensor& zeros);

}  // namespace teq::verify
