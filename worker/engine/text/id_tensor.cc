#include "worker/engine/text/id_tensor.h"

#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "worker/engine/text/data_error.h"

namespace teq::text {
namespace {

using model_info::DType;
using model_info::TensorInfo;

constexpr std::string_view kName = "input_ids";
constexpr std::string_view kRemedy =
    "save one tensor input_ids, I32 or I64, [windows, tokens] or [tokens]";

absl::Status Invalid(const std::filesystem::path& file, std::string_view what) {
  return DataError("INVALID_TEXT", file.string(), what);
}

// The same of what the header's reader says of a checkpoint.
absl::Status AsTextError(const absl::Status& status) {
  const bool missing = absl::IsNotFound(status);
  return Error(status.code(), missing ? "TEXT_NOT_FOUND" : "INVALID_TEXT",
               fmt::format("{}; {}", std::string(status.message()), kRemedy));
}

absl::Status Check(const TensorInfo& tensor, std::int64_t length) {
  const std::string kind =
      fmt::format("dtype {} and shape [{}]", Name(tensor.dtype), fmt::join(tensor.shape, ", "));
  const bool is_integer = tensor.dtype == DType::kI32 || tensor.dtype == DType::kI64;
  if (!is_integer || tensor.shape.empty() || tensor.shape.size() > 2) {
    return Invalid(tensor.file, fmt::format("tensor {} has {}; {}", kName, kind, kRemedy));
  }
  if (tensor.shape.back() < length || tensor.shape.front() == 0) {
    return TooShort(tensor.file, fmt::format("tensor {} of {}", kName, kind), length);
  }
  return absl::OkStatus();
}

}  // namespace

IdTensor::IdTensor(DataFile file, TensorInfo tensor, std::int64_t length)
    : file_(std::move(file)), tensor_(std::move(tensor)), length_(length) {
  const bool rows = tensor_.shape.size() == 2;
  count_ = rows ? tensor_.shape[0] : tensor_.shape[0] / length;
  stride_ = rows ? tensor_.shape[1] : length;
}

absl::StatusOr<IdTensor> IdTensor::Open(const std::filesystem::path& file, std::int64_t length) {
  TEQ_ASSIGN_OR_RETURN(auto data, DataFile::Open(file));
  const auto tensors = model_info::ReadSafetensorsHeader(file);
  if (!tensors.ok()) return AsTextError(tensors.status());
  // A mask or labels beside the ids would change what the ids mean.
  for (const auto& [name, tensor] : *tensors) {
    if (name != kName) return Invalid(file, fmt::format("holds the tensor {}; {}", name, kRemedy));
  }
  if (tensors->empty()) return Invalid(file, fmt::format("holds no tensor; {}", kRemedy));
  const TensorInfo& tensor = tensors->begin()->second;
  TEQ_RETURN_IF_ERROR(Check(tensor, length));
  return IdTensor(std::move(data), tensor, length);
}

absl::Status IdTensor::Read(std::int64_t window, std::int64_t vocabulary_size,
                            std::vector<std::int32_t>& ids) const {
  const auto size = static_cast<std::uint64_t>(ByteSize(tensor_.dtype));
  const std::uint64_t offset = tensor_.offset + static_cast<std::uint64_t>(window * stride_) * size;
  TEQ_ASSIGN_OR_RETURN(const std::string bytes,
                       file_.Read(offset, static_cast<std::uint64_t>(length_) * size));
  for (std::int64_t i = 0; i < length_; ++i) {
    std::int64_t id = 0;
    const char* place = bytes.data() + static_cast<std::uint64_t>(i) * size;
    if (tensor_.dtype == DType::kI64) {
      std::memcpy(&id, place, sizeof(id));
    } else {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, place, sizeof(narrow));
      id = narrow;
    }
    if (id < 0 || id >= vocabulary_size) {
      return Invalid(file_.path(),
                     fmt::format("tensor {} holds {}, as token {} of window {}, which is no id "
                                 "below the vocabulary's size {}; the ids are another tokenizer's",
                                 kName, id, i, window, vocabulary_size));
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return absl::OkStatus();
}

}  // namespace teq::text
