#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "torch/types.h"

namespace teq::pack {

/// The types of ggml that teqd writes, by ggml's numbers.
enum class GgufType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kBF16 = 30,
  kTq1_0 = 34,
  kTq2_0 = 35,
};

/// The values of a block, and its bytes. A block of the float types is one value.
struct GgufBlock {
  std::int64_t values = 1;
  std::int64_t bytes = 0;
};
[[nodiscard]] GgufBlock BlockOf(GgufType type);

/// A GGUF file's keys and values, in the order in which they are added.
class GgufMetadata {
 public:
  void AddText(std::string_view key, std::string_view value);
  void AddNumber(std::string_view key, std::int64_t value);  // as an unsigned number of 32 bits
  void AddReal(std::string_view key, double value);          // as a float of 32 bits
  void AddFlag(std::string_view key, bool value);
  void AddTexts(std::string_view key, const std::vector<std::string>& values);
  void AddNumbers(std::string_view key, const std::vector<std::int32_t>& values);
  void AddReals(std::string_view key, const std::vector<float>& values);

  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  void AddKey(std::string_view key, std::uint32_t type);
  void AddArray(std::string_view key, std::uint32_t type, std::size_t count);

  std::uint64_t count_ = 0;
  std::string bytes_;
};

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<std::int64_t> shape;  // outermost first, as in [rows, columns]
  // The whole tensor's blocks, uint8; asked for once, when they are written.
  std::function<absl::StatusOr<torch::Tensor>()> blocks;
};

/// Writes a GGUF file of version 3, one tensor after the other: under a temporary name, synced to
/// disk, then renamed, so that no part of a file is ever left under the name. Returns the sha256 of
/// all bytes that were to be written, hexadecimal. RESOURCE_EXHAUSTED, DISK_FULL; otherwise as
/// objects::WriteError.
[[nodiscard]] absl::StatusOr<std::string> WriteGguf(const std::filesystem::path& file,
                                                    const GgufMetadata& metadata,
                                                    const std::vector<GgufTensor>& tensors);

}  // namespace teq::pack
