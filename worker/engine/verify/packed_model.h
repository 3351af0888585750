#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "torch/types.h"

namespace teq::verify {

/// A linear layer that was read back from packed bytes.
struct UnpackedLayer {
  int bits = 0;
  std::int64_t group_size = 0;  // columns per group as found in the tensors' shapes
  torch::Tensor codes;          // [out, in], uint8
  torch::Tensor scales;         // [out, groups], float16 as stored
  torch::Tensor zeros;          // [out, groups], int32; the true zero point, not the stored one
  torch::Tensor weight;         // [out, in], float32: scale * (code - zero)
};

/// Reads one GPTQ v1 linear layer from its packed tensors. Written from the format's description
/// alone: it shares nothing with the packer.
///
/// `qweight` int32 [in*bits/32, out], `qzeros` int32 [groups, out*bits/32], `scales` float16
/// [groups, out], `g_idx` int32 [in]. DATA_LOSS, reason VERIFY_FAILED: names what disagrees.
[[nodiscard]] absl::StatusOr<UnpackedLayer> UnpackGptq(int bits, const torch::Tensor& qweight,
                                                       const torch::Tensor& qzeros,
                                                       const torch::Tensor& scales,
                                                       const torch::Tensor& g_idx);

/// A published directory whose configuration was read and whose tensors were found to be those that
/// it claims. A layer or tensor is read, and checked, each time that it is asked for, so that no
/// more than one has to be held. DATA_LOSS, reason VERIFY_FAILED: names directory, layer and what
/// disagrees.
struct PackedModel {
  std::map<std::string, std::function<absl::StatusOr<UnpackedLayer>()>> layers;   // by module
  std::map<std::string, std::function<absl::StatusOr<torch::Tensor>()>> tensors;  // the others
};

/// A published GPTQ directory: config.json's quantization_config (bits, group_size, sym, dynamic).
[[nodiscard]] absl::StatusOr<PackedModel> ReadGptqDirectory(const std::filesystem::path& directory);

/// The sha256 of every file of a directory (relative path, hexadecimal digest), computed from the
/// bytes on disk, compared with what was recorded when they were written.
/// DATA_LOSS, reason VERIFY_FAILED: names the file.
[[nodiscard]] absl::Status CheckDigests(const std::filesystem::path& directory,
                                        const std::map<std::string, std::string>& recorded);

}  // namespace teq::verify
