#include "worker/engine/pack/dequantized.h"

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/pack/checkpoint_directory.h"

namespace teq::pack {

absl::StatusOr<std::map<std::string, std::string>> WriteDequantizedDirectory(
    const PackableModel& model, const std::filesystem::path& directory) {
  const torch::ScalarType type = FloatType(model);
  const auto tensors = [&](const std::string& layer, const quant::Quantized& quantized)
      -> absl::StatusOr<std::vector<std::pair<std::string, torch::Tensor>>> {
    const torch::Tensor weight = quant::Dequantize(quantized).to(torch::kCPU, type);
    // As floats: Debian's LibTorch has no isfinite for half precision on every processor.
    if (!torch::isfinite(weight.to(torch::kFloat32)).all().item<bool>()) {
      return Error(absl::StatusCode::kInvalidArgument, "NOT_REPRESENTABLE",
                   fmt::format("format DEQUANTIZED: layer {}: a weight is too large for {}; leave "
                               "the layer float by overrides: [{{match: \"{}\", skip: true}}], or "
                               "choose another format",
                               layer, torch::toString(type), layer));
    }
    return std::vector{
        std::pair(layer + ".weight", model.config.transposed_linears ? weight.t() : weight)};
  };
  return WriteCheckpointDirectory(model, {}, tensors, directory);
}

}  // namespace teq::pack
