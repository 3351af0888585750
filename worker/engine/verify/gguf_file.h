#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace teq::verify {

/// A GGUF file of version 3 as its header describes it. Nothing is believed before it is checked:
/// lengths and counts against the bytes that are left, types, extents whose product does not
/// overflow, offsets at multiples of the alignment, tensors inside the file, in order, without
/// overlap and with no more than padding between them, no name twice.
class GgufFile {
 public:
  struct Tensor {
    std::uint32_t type = 0;           // ggml's number
    std::vector<std::int64_t> shape;  // outermost first
    const std::uint8_t* data = nullptr;
    std::uint64_t bytes = 0;
  };

  /// Maps the file. DATA_LOSS, VERIFY_FAILED: names the file, the part and the value.
  [[nodiscard]] static absl::StatusOr<GgufFile> Open(const std::filesystem::path& file);

  /// The metadata. Arrays of numbers are arrays; texts may be no UTF-8.
  [[nodiscard]] const std::map<std::string, nlohmann::json>& values() const { return values_; }

  /// By name; their data lives as long as this object or a copy of it.
  [[nodiscard]] const std::map<std::string, Tensor>& tensors() const { return tensors_; }

 private:
  struct Mapping;
  GgufFile() = default;

  std::shared_ptr<const Mapping> mapping_;
  std::map<std::string, nlohmann::json> values_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace teq::verify
