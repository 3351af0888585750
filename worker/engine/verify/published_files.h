#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "nlohmann/json.hpp"
#include "worker/engine/checkpoint/checkpoint.h"
#include "worker/engine/verify/layer_claim.h"
#include "worker/engine/verify/packed_model.h"

// A published checkpoint's files, as all its readers need them. Errors are DATA_LOSS,
// VERIFY_FAILED: whatever is wrong with published bytes, it is our doing.
namespace teq::verify {

/// Any status as VERIFY_FAILED.
[[nodiscard]] absl::Status AsVerifyFailed(const absl::Status& status);

/// A file that is one JSON object.
[[nodiscard]] absl::StatusOr<nlohmann::ordered_json> ReadJson(const std::filesystem::path& file);

/// The checkpoint of a directory, as Checkpoint::Open finds it.
[[nodiscard]] absl::StatusOr<checkpoint::Checkpoint> OpenPublished(
    const std::filesystem::path& directory);

/// The module of a tensor that is one of `parts`, such as "a.b" of "a.b.qweight"; else empty.
[[nodiscard]] std::string_view ModuleOf(std::string_view tensor,
                                        std::span<const std::string_view> parts);

/// One part of a packed layer, or an error that names the part.
[[nodiscard]] absl::StatusOr<torch::Tensor> ReadPart(const checkpoint::Checkpoint& checkpoint,
                                                     const std::string& module,
                                                     std::string_view part);

/// That a bias, where there is one, has as many values as the layer has outputs.
[[nodiscard]] absl::Status CheckBias(const checkpoint::Checkpoint& checkpoint,
                                     const std::string& module, std::int64_t outputs);

/// An error of a layer that is read after its directory was opened, with both named.
[[nodiscard]] absl::Status InLayer(const absl::Status& status,
                                   const std::filesystem::path& directory,
                                   const std::string& module);

/// How one format is read: the parts that a packed layer has, what config.json claims about a
/// linear module, and a layer from its parts. `read` is called later, and must own what it needs.
struct LayoutReader {
  std::span<const std::string_view> parts;
  std::function<absl::StatusOr<LayerClaim>(const std::string& module)> claim_of;
  std::function<absl::StatusOr<UnpackedLayer>(const std::string& module, const LayerClaim& claim)>
      read;
};

/// Every linear layer that the model has is either packed, as it is claimed to be and in the
/// model's shape, or float; and every packed part belongs to one of them.
[[nodiscard]] absl::StatusOr<PackedModel> ReadLayout(const std::filesystem::path& directory,
                                                     const checkpoint::Checkpoint& checkpoint,
                                                     const model_info::ModelConfig& config,
                                                     const LayoutReader& reader);

}  // namespace teq::verify
