#pragma once

#include <array>
#include <string_view>

namespace teq::model_info {

inline constexpr std::string_view kConfigFile = "config.json";
inline constexpr std::string_view kWeightsFile = "model.safetensors";
inline constexpr std::string_view kWeightsIndexFile = "model.safetensors.index.json";

/// What a checkpoint directory may hold beside config.json and weights that loaders and lawyers
/// need, and that is published as it is: how to turn text and images into a model's input, how to
/// generate, licences.
inline constexpr std::array<std::string_view, 18> kCompanionFiles = {"tokenizer.json",
                                                                     "tokenizer.model",
                                                                     "tokenizer_config.json",
                                                                     "special_tokens_map.json",
                                                                     "added_tokens.json",
                                                                     "generation_config.json",
                                                                     "chat_template.jinja",
                                                                     "chat_template.json",
                                                                     "preprocessor_config.json",
                                                                     "processor_config.json",
                                                                     "vocab.json",
                                                                     "merges.txt",
                                                                     "spiece.model",
                                                                     "LICENSE",
                                                                     "LICENSE.md",
                                                                     "LICENSE.txt",
                                                                     "NOTICE",
                                                                     "NOTICE.txt"};

/// The model's card, whose licence the published card repeats.
inline constexpr std::string_view kCardFile = "README.md";

}  // namespace teq::model_info
