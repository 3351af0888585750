#include "worker/engine/verify/compressed_tensors.h"

#include <array>
#include <string>
#include <string_view>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/verify/compressed_tensors_config.h"
#include "worker/engine/verify/fields.h"
#include "worker/engine/verify/published_files.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kZeroPoint = "weight_zero_point";
constexpr std::array<std::string_view, 4> kParts = {"weight_packed", "weight_scale", "weight_shape",
                                                    kZeroPoint};

std::int64_t Words(std::int64_t fields, int bits) { return (fields * bits + 31) / 32; }

absl::StatusOr<UnpackedLayer> Unpack(int bits, const PackQuantized& packed) {
  TEQ_RETURN_IF_ERROR(CheckBits(bits));
  TEQ_RETURN_IF_ERROR(CheckForm("weight_shape", packed.weight_shape, torch::kInt64, {2}));
  TEQ_RETURN_IF_ERROR(CheckMatrix("weight_packed", packed.weight_packed));
  TEQ_RETURN_IF_ERROR(CheckMatrix("weight_scale", packed.weight_scale));
  const auto outputs = packed.weight_shape[0].item<std::int64_t>();
  const auto columns = packed.weight_shape[1].item<std::int64_t>();
  const std::int64_t groups = packed.weight_scale.size(1);
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  if (outputs < 1 || columns < 1 || outputs > kMost || columns > kMost || columns % groups != 0) {
    return Bad("weight_shape", fmt::format("is {} x {}; expected a positive number of outputs, and "
                                           "of inputs that {} groups divide",
                                           outputs, columns, groups));
  }
  TEQ_RETURN_IF_ERROR(CheckForm("weight_packed", packed.weight_packed, torch::kInt32,
                                {outputs, Words(columns, bits)}));
  TEQ_RETURN_IF_ERROR(
      CheckForm("weight_scale", packed.weight_scale, torch::kFloat16, {outputs, groups}));
  TEQ_RETURN_IF_ERROR(CheckFinite("weight_scale", packed.weight_scale));
  UnpackedLayer layer;
  layer.bits = bits;
  layer.group_size = columns / groups;
  layer.codes = ReadFields(packed.weight_packed.t(), bits, columns).t().contiguous();
  layer.scales = packed.weight_scale;
  if (packed.weight_zero_point) {
    TEQ_RETURN_IF_ERROR(CheckForm(kZeroPoint, *packed.weight_zero_point, torch::kInt32,
                                  {Words(outputs, bits), groups}));
    layer.zeros = ReadFields(*packed.weight_zero_point, bits, outputs).to(torch::kInt32);
  } else {
    layer.zeros = torch::full({outputs, groups}, 1 << (bits - 1), torch::kInt32);
  }
  layer.weight = WeightOf(layer.codes, layer.scales, layer.zeros);
  return layer;
}

absl::StatusOr<UnpackedLayer> ReadLayer(const checkpoint::Checkpoint& checkpoint,
                                        const std::string& module, const LayerClaim& claim) {
  PackQuantized packed;
  TEQ_ASSIGN_OR_RETURN(packed.weight_packed, ReadPart(checkpoint, module, "weight_packed"));
  TEQ_ASSIGN_OR_RETURN(packed.weight_scale, ReadPart(checkpoint, module, "weight_scale"));
  TEQ_ASSIGN_OR_RETURN(packed.weight_shape, ReadPart(checkpoint, module, "weight_shape"));
  if (!claim.symmetric) {
    TEQ_ASSIGN_OR_RETURN(packed.weight_zero_point, ReadPart(checkpoint, module, kZeroPoint));
  } else if (checkpoint.Has(fmt::format("{}.{}", module, kZeroPoint))) {
    return Bad(kZeroPoint, "is there, but config.json says that the layer is symmetric");
  }
  return UnpackCompressed(claim.bits, packed);
}

absl::StatusOr<PackedModel> Read(const std::filesystem::path& directory,
                                 const model_info::ModelConfig& config) {
  TEQ_ASSIGN_OR_RETURN(const Json json, ReadJson(directory / "config.json"));
  TEQ_ASSIGN_OR_RETURN(const CompressedTensorsConfig claims,
                       CompressedTensorsConfig::Parse(json.value("quantization_config", Json())));
  TEQ_ASSIGN_OR_RETURN(const checkpoint::Checkpoint checkpoint, OpenPublished(directory));
  const auto claim_of = [&](const std::string& module) { return claims.ClaimOf(module); };
  const auto read = [checkpoint](const std::string& module, const LayerClaim& claim) {
    return ReadLayer(checkpoint, module, claim);
  };
  return ReadLayout(directory, checkpoint, config, {kParts, claim_of, read});
}

}  // namespace

absl::StatusOr<UnpackedLayer> UnpackCompressed(int bits, const PackQuantized& packed) {
  try {
    return Unpack(bits, packed);
  } catch (const c10::Error& error) {
    return Bad("packed tensors", error.what_without_backtrace());
  }
}

absl::StatusOr<PackedModel> ReadCompressedTensorsDirectory(const std::filesystem::path& directory,
                                                           const model_info::ModelConfig& config) {
  absl::StatusOr<PackedModel> model = Read(directory, config);
  if (!model.ok()) return WithContext(AsVerifyFailed(model.status()), directory.string());
  return model;
}

}  // namespace teq::verify
