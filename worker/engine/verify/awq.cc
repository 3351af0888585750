#include "worker/engine/verify/awq.h"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/verify/fields.h"
#include "worker/engine/verify/published_files.h"

namespace teq::verify {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::string_view, 3> kParts = {"qweight", "qzeros", "scales"};
// The nibble that holds each of a word's eight outputs.
constexpr std::array<std::int64_t, 8> kNibbleOfOutput = {0, 4, 1, 5, 2, 6, 3, 7};

/// int32 [rows, words] to uint8 [8 * words, rows]: a row for every output.
torch::Tensor Outputs(const torch::Tensor& words) {
  const torch::Tensor nibbles = ReadFields(words.t(), 4, words.size(1) * 8);
  const torch::Tensor order =
      torch::tensor(std::vector(kNibbleOfOutput.begin(), kNibbleOfOutput.end()));
  return nibbles.view({words.size(1), 8, words.size(0)})
      .index_select(1, order)
      .view({words.size(1) * 8, words.size(0)});
}

absl::StatusOr<UnpackedLayer> Unpack(const torch::Tensor& qweight, const torch::Tensor& qzeros,
                                     const torch::Tensor& scales) {
  TEQ_RETURN_IF_ERROR(CheckMatrix("qweight", qweight));
  TEQ_RETURN_IF_ERROR(CheckMatrix("scales", scales));
  const std::int64_t columns = qweight.size(0);
  const std::int64_t words = qweight.size(1);
  const std::int64_t groups = scales.size(0);
  if (columns % groups != 0) {
    return Bad("scales",
               fmt::format("has {} groups, which do not divide {} columns", groups, columns));
  }
  TEQ_RETURN_IF_ERROR(CheckForm("qweight", qweight, torch::kInt32, {columns, words}));
  TEQ_RETURN_IF_ERROR(CheckForm("scales", scales, torch::kFloat16, {groups, words * 8}));
  TEQ_RETURN_IF_ERROR(CheckForm("qzeros", qzeros, torch::kInt32, {groups, words}));
  TEQ_RETURN_IF_ERROR(CheckFinite("scales", scales));
  UnpackedLayer layer;
  layer.bits = 4;
  layer.group_size = columns / groups;
  layer.codes = Outputs(qweight);
  layer.scales = scales.t().contiguous();
  layer.zeros = Outputs(qzeros).to(torch::kInt32);
  layer.weight = WeightOf(layer.codes, layer.scales, layer.zeros);
  return layer;
}

/// What config.json says of all layers.
struct AwqClaims {
  LayerClaim packed;
  std::vector<std::string> float_parts;  // of module names
};

absl::StatusOr<AwqClaims> ReadClaims(const Json& json) {
  if (!json.is_object()) return BadConfig("is missing or no object");
  if (json.value("quant_method", Json()) != "awq") {
    return BadSetting(json, "quant_method", "\"awq\"");
  }
  if (json.value("bits", Json()) != 4) return BadSetting(json, "bits", "4");
  if (json.value("version", Json()) != "gemm") return BadSetting(json, "version", "\"gemm\"");
  if (json.value("zero_point", Json()) != true) {
    return BadSetting(json, "zero_point", "true, as zero points are stored");
  }
  const Json group = json.value("group_size", Json());
  if (!group.is_number_integer() || (group < 1 && group != -1)) {
    return BadSetting(json, "group_size", "-1 or a positive number");
  }
  AwqClaims claims{.packed = {.packed = true, .bits = 4, .group_size = group.get<std::int64_t>()},
                   .float_parts = {}};
  const Json names = json.value("modules_to_not_convert", Json());
  if (names.is_null()) return claims;
  if (!names.is_array() ||
      !std::all_of(names.begin(), names.end(), [](const Json& name) { return name.is_string(); })) {
    return BadSetting(json, "modules_to_not_convert", "a list of names");
  }
  claims.float_parts = names.get<std::vector<std::string>>();
  return claims;
}

absl::StatusOr<PackedModel> Read(const std::filesystem::path& directory,
                                 const model_info::ModelConfig& config) {
  TEQ_ASSIGN_OR_RETURN(const Json json, ReadJson(directory / "config.json"));
  TEQ_ASSIGN_OR_RETURN(const AwqClaims claims,
                       ReadClaims(json.value("quantization_config", Json())));
  TEQ_ASSIGN_OR_RETURN(const checkpoint::Checkpoint checkpoint, OpenPublished(directory));
  const auto claim_of = [&](const std::string& module) -> absl::StatusOr<LayerClaim> {
    const bool is_float = std::any_of(
        claims.float_parts.begin(), claims.float_parts.end(),
        [&](const std::string& part) { return module.find(part) != std::string::npos; });
    return is_float ? LayerClaim() : claims.packed;
  };
  const auto read = [checkpoint](const std::string& module,
                                 const LayerClaim& /*claim*/) -> absl::StatusOr<UnpackedLayer> {
    TEQ_ASSIGN_OR_RETURN(const torch::Tensor qweight, ReadPart(checkpoint, module, "qweight"));
    TEQ_ASSIGN_OR_RETURN(const torch::Tensor qzeros, ReadPart(checkpoint, module, "qzeros"));
    TEQ_ASSIGN_OR_RETURN(const torch::Tensor scales, ReadPart(checkpoint, module, "scales"));
    return UnpackAwq(qweight, qzeros, scales);
  };
  return ReadLayout(directory, checkpoint, config, {kParts, claim_of, read});
}

}  // namespace

absl::StatusOr<UnpackedLayer> UnpackAwq(const torch::Tensor& qweight, const torch::Tensor& qzeros,
                                        const torch::Tensor& scales) {
  try {
    return Unpack(qweight, qzeros, scales);
  } catch (const c10::Error& error) {
    return Bad("packed tensors", error.what_without_backtrace());
  }
}

absl::StatusOr<PackedModel> ReadAwqDirectory(const std::filesystem::path& directory,
                                             const model_info::ModelConfig& config) {
  absl::StatusOr<PackedModel> model = Read(directory, config);
  if (!model.ok()) return WithContext(AsVerifyFailed(model.status()), directory.string());
  return model;
}

}  // namespace teq::verify
