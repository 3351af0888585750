#include "client/model_info/gguf_rules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "client/model_info/gguf_error.h"
#include "client/model_info/gguf_tokenizer.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"
#include "proto/spec/recipe.h"

namespace teq::model_info {
namespace {

using Kind = RopeScaling::Kind;

/// A family as llama.cpp's code has it; what a variant has beyond that is refused.
struct Capability {
  std::string_view model_type;
  std::array<Activation, 2> activations;
  bool qkv_bias = false;
  bool other_bias = false;  // of attention's output and of the MLP
  bool parallel = false;
  bool any_head_size = false;  // heads * head_size may differ from the hidden size
};

// llama.cpp computes both forms of gelu by tanh; they differ by less than 0.0005.
constexpr std::array kCapabilities = {
    Capability{"bloom", {Activation::kGeluTanh, Activation::kGeluTanh}, true, true},
    Capability{"falcon", {Activation::kGelu, Activation::kGeluTanh}, false, false, true},
    Capability{"gpt2", {Activation::kGeluTanh, Activation::kGelu}, true, true},
    Capability{"llama", {Activation::kSilu, Activation::kSilu}, true, true, false, true},
    Capability{"mistral", {Activation::kSilu, Activation::kSilu}, true, true, false, true},
    Capability{"qwen2", {Activation::kSilu, Activation::kSilu}, true},
};

// Codes of a block, which has one scale.
constexpr int kBlock = 32;
constexpr int kTernaryBlock = 256;

int BlockSize(const LayerGrid& grid) { return grid.bits == 2 ? kTernaryBlock : kBlock; }

bool HasType(const LayerGrid& grid) {
  return grid.bits == 4 || (grid.symmetric && (grid.bits == 2 || grid.bits == 8));
}

absl::Status CheckRotary(const ModelConfig& config) {
  const Rotary& rotary = config.rotary;
  if (rotary.dimensions != config.head_size) {
    return GgufCannotHold(
        fmt::format("llama.cpp turns whole heads in {}; this model turns {} of {} "
                    "dimensions",
                    config.model_type, rotary.dimensions, config.head_size));
  }
  if (!rotary.scaling) return absl::OkStatus();
  const RopeScaling& scaling = *rotary.scaling;
  if (scaling.kind == Kind::kDynamic || scaling.kind == Kind::kLongRope) {
    return GgufCannotHold(
        fmt::format("llama.cpp has no rope_scaling of type {} for {}; known: "
                    "linear, llama3, yarn",
                    scaling.kind == Kind::kDynamic ? "dynamic" : "longrope", config.model_type));
  }
  if (scaling.kind == Kind::kLlama3 && config.model_type != "llama" &&
      config.model_type != "mistral") {
    return GgufCannotHold(
        fmt::format("llama.cpp has rope_scaling of type llama3 for llama alone, not for {}",
                    config.model_type));
  }
  if (scaling.kind != Kind::kYarn) return absl::OkStatus();
  const double usual = scaling.factor <= 1 ? 1 : 0.1 * std::log(scaling.factor) + 1;
  if (scaling.beta_fast != 32 || scaling.beta_slow != 1 || !scaling.truncate ||
      std::abs(scaling.attention_factor - usual) > 1e-6) {
    return GgufCannotHold(
        "llama.cpp's versions agree about yarn only with beta_fast 32, beta_slow 1 and the "
        "attention factor that follows from the factor");
  }
  return absl::OkStatus();
}

const Capability* FindCapability(std::string_view model_type) {
  const auto* found = std::find_if(
      kCapabilities.begin(), kCapabilities.end(),
      [&](const Capability& capability) { return capability.model_type == model_type; });
  return found == kCapabilities.end() ? nullptr : found;
}

absl::Status UnknownFamily(std::string_view model_type) {
  std::vector<std::string_view> known;
  known.reserve(kCapabilities.size());
  for (const Capability& capability : kCapabilities) known.push_back(capability.model_type);
  return GgufCannotHold(fmt::format("a model of type {} is not written; known: {}", model_type,
                                    fmt::join(known, ", ")));
}

using Layers = std::vector<const PlannedLayer*>;

std::string NameLayers(const Layers& layers) {
  constexpr std::size_t kNamed = 4;
  std::vector<std::string_view> names;
  for (const PlannedLayer* planned : layers) {
    if (names.size() < kNamed) names.push_back(planned->layer.name);
  }
  return fmt::format(
      "{}{}", fmt::join(names, ", "),
      layers.size() > kNamed ? fmt::format(" and {} more", layers.size() - kNamed) : "");
}

template <typename Wrong>
Layers Find(const std::vector<PlannedLayer>& plan, const Wrong& wrong) {
  Layers layers;
  for (const PlannedLayer& planned : plan) {
    if (planned.grid.quantized && wrong(planned)) layers.push_back(&planned);
  }
  return layers;
}

absl::Status CheckBits(const std::vector<PlannedLayer>& plan) {
  const Layers wrong = Find(plan, [](const PlannedLayer& p) { return !HasType(p.grid); });
  if (wrong.empty()) return absl::OkStatus();
  const LayerGrid& grid = wrong.front()->grid;
  return GgufCannotHold(fmt::format("it has no type for {}-bit {} codes of {}", grid.bits,
                                    grid.symmetric ? "symmetric" : "asymmetric", NameLayers(wrong)),
                        "choose 4 bits, or 2 or 8 bits with symmetric: true");
}

absl::Status CheckOpenBits(const teq::v1::Recipe& recipe, const std::vector<PlannedLayer>& plan) {
  const Layers open =
      Find(plan, [&](const PlannedLayer& p) { return BitsAreOpen(recipe, p.layer.name); });
  if (open.empty()) return absl::OkStatus();
  return GgufCannotHold(
      fmt::format("target_bits may choose 3 bits for {}, which no type holds", NameLayers(open)),
      "give bits instead");
}

absl::Status CheckBlocks(const std::vector<PlannedLayer>& plan) {
  const Layers groups = Find(plan, [](const PlannedLayer& p) {
    return p.grid.group_size > 0 && p.grid.group_size % BlockSize(p.grid) != 0;
  });
  if (!groups.empty()) {
    const LayerGrid& grid = groups.front()->grid;
    return GgufCannotHold(
        fmt::format("its blocks have one scale for {} codes of {} bits, and group_size {} of {} "
                    "is no multiple",
                    BlockSize(grid), grid.bits, grid.group_size, NameLayers(groups)),
        "choose one that is");
  }
  const Layers rows =
      Find(plan, [](const PlannedLayer& p) { return p.layer.in % BlockSize(p.grid) != 0; });
  if (rows.empty()) return absl::OkStatus();
  return GgufCannotHold(
      fmt::format("rows of {} codes do not fill blocks of {} in {}", rows.front()->layer.in,
                  BlockSize(rows.front()->grid), NameLayers(rows)),
      "leave them float by overrides with skip: true");
}

}  // namespace

absl::Status CheckGgufModel(const ModelConfig& config) {
  const Capability* known = FindCapability(config.model_type);
  if (known == nullptr) return UnknownFamily(config.model_type);
  const auto refuse = [&](std::string_view what) {
    return GgufCannotHold(fmt::format("llama.cpp's {} has no {}", config.model_type, what));
  };
  if (std::find(known->activations.begin(), known->activations.end(), config.activation) ==
      known->activations.end()) {
    return refuse("such activation function");
  }
  if ((config.qkv_bias && !known->qkv_bias) || config.head_bias ||
      ((config.attention_output_bias || config.mlp_bias) && !known->other_bias)) {
    return refuse("such biases");
  }
  if (config.parallel != known->parallel) {
    return refuse(known->parallel ? "attention and MLP one after the other"
                                  : "attention and MLP side by side");
  }
  if (config.attention_scale_by_depth) return refuse("scale of attention by depth");
  if (config.residual_from_norm) return refuse("residual that follows a norm");
  if (config.heads * config.head_size != config.hidden_size && !known->any_head_size) {
    return refuse(fmt::format("{} heads of {} for a hidden size of {}", config.heads,
                              config.head_size, config.hidden_size));
  }
  if (config.positions == PositionKind::kRotary) return CheckRotary(config);
  if (config.positions == PositionKind::kAlibi && config.model_type != "bloom") {
    return refuse("alibi positions");
  }
  return absl::OkStatus();
}

absl::Status CheckGguf(const teq::v1::JobSpec& spec, const ModelConfig& config,
                       const std::vector<PlannedLayer>& plan,
                       const std::filesystem::path& directory) {
  TEQ_RETURN_IF_ERROR(CheckGgufModel(config));
  TEQ_RETURN_IF_ERROR(CheckOpenBits(spec.recipe(), plan));
  TEQ_RETURN_IF_ERROR(CheckBits(plan));
  TEQ_RETURN_IF_ERROR(CheckBlocks(plan));
  return FindGgufTokenizer(directory).status();
}

}  // namespace teq::model_info
