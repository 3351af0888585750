#pragma once

#include <array>
#include <string_view>

namespace teq::model_info {

inline constexpr std::string_view kConfigFile = "config.json";
inline constexpr std::string_view kWeightsFile = "model.safetensors";
inline constexpr std::string_view kWeightsIndexFile = "model.safetensors.index.json";

/// What a checkpoint directory may hold beside config.json and weights that loaders need: how to
/// turn text into ids, and how to generate.
inline constexpr std::array<std::string_view, 9> kCompanionFiles = {
    "tokenizer.json",          "tokenizer.model",   "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template.jinja",     "vocab.json",        "merges.txt"};

}  // namespace teq::model_info
