#include "client/model_info/config_reader.h"

#include <algorithm>
#include <array>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::ordered_json;

// Keys of any family that change nothing in a forward pass over a text without dropout: where the
// model came from, how it was trained, how text is generated from it. Names that begin with an
// underscore are transformers' own.
constexpr std::string_view kNeutralKeys[] = {
    "activation_dropout",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_implementation",
    "attn_pdrop",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bias_dropout_fusion",
    "bos_token_id",
    "custom_pipelines",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "classifier_dropout_prob",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dropout",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "init_device",
    "init_std",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "layerdrop",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_dropout",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
};

constexpr std::int64_t kMostSize = std::int64_t{1} << 30;
constexpr std::int64_t kMostNumber = 1 << 14;
constexpr double kMostPositive = 1e12;

/// A value as a message shows it: short, and in ASCII, so that cutting it leaves it readable.
std::string Show(const Json& value) {
  if (value.is_structured()) return value.type_name();
  return value.dump(-1, ' ', /*ensure_ascii=*/true).substr(0, 60);
}

bool IsIntegerWithin(const Json& value, std::int64_t least, std::int64_t most) {
  if (!value.is_number_integer()) return false;
  // Read as a signed number it would wrap.
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    return number >= static_cast<std::uint64_t>(least) &&
           number <= static_cast<std::uint64_t>(most);
  }
  return value.get<std::int64_t>() >= least && value.get<std::int64_t>() <= most;
}

bool IsNeutral(std::string_view key) {
  return key.starts_with('_') || std::ranges::find(kNeutralKeys, key) != std::end(kNeutralKeys);
}

struct ActivationName {
  std::string_view name;
  Activation activation;
};
constexpr std::array kActivations = {
    ActivationName{"silu", Activation::kSilu},
    ActivationName{"swish", Activation::kSilu},
    ActivationName{"gelu", Activation::kGelu},
    ActivationName{"gelu_new", Activation::kGeluTanh},
    ActivationName{"gelu_fast", Activation::kGeluTanh},
    ActivationName{"gelu_pytorch_tanh", Activation::kGeluTanh},
    ActivationName{"relu", Activation::kRelu},
};

const Json& Null() {
  static const Json null;
  return null;
}

}  // namespace

const Json& ConfigReader::Find(const Key& key) {
  const Json* found = nullptr;
  for (const char* name : key.names) {
    known_.insert(name);
    const auto entry = json_.find(name);
    if (found != nullptr || entry == json_.end() || entry->is_null()) continue;
    found = &*entry;
    name_ = name;
  }
  if (found == nullptr) name_ = key.names.front();
  return found == nullptr ? Null() : *found;
}

bool ConfigReader::Contains(const Key& key) {
  static_cast<void>(Find(key));
  return std::ranges::any_of(key.names, [&](const char* name) { return json_.contains(name); });
}

bool ConfigReader::Has(const Key& key) { return !Find(key).is_null(); }

std::int64_t ConfigReader::Integer(const Key& key, std::int64_t fallback, std::int64_t least,
                                   std::int64_t most) {
  const Json& value = Find(key);
  if (value.is_null()) return fallback;
  if (!IsIntegerWithin(value, least, most)) {
    Invalid(fmt::format("{} is {}; it must be an integer from {} to {}", name_, Show(value), least,
                        most));
    return fallback;
  }
  return value.get<std::int64_t>();
}

std::int64_t ConfigReader::Size(const Key& key) {
  if (!Has(key)) Invalid(fmt::format("{} is missing", key.names.front()));
  return Size(key, 1);
}

std::int64_t ConfigReader::Size(const Key& key, std::int64_t fallback) {
  return Integer(key, fallback, 1, kMostSize);
}

std::int64_t ConfigReader::Number(const Key& key) {
  if (!Has(key)) Invalid(fmt::format("{} is missing", key.names.front()));
  return Number(key, 1);
}

std::int64_t ConfigReader::Number(const Key& key, std::int64_t fallback) {
  return Integer(key, fallback, 1, kMostNumber);
}

std::int64_t ConfigReader::Count(const Key& key, std::int64_t fallback) {
  return Integer(key, fallback, 0, kMostSize);
}

double ConfigReader::Positive(const Key& key, double fallback) {
  const Json& value = Find(key);
  if (value.is_null()) return fallback;
  if (!value.is_number() || !(value.get<double>() > 0) || value.get<double>() > kMostPositive) {
    Invalid(fmt::format("{} is {}; it must be positive, and at most {}", name_, Show(value),
                        kMostPositive));
    return fallback;
  }
  return value.get<double>();
}

double ConfigReader::Limit(const Key& key) {
  const Json& value = Find(key);
  return value.is_number() && value.get<double>() == 0 ? 0 : Positive(key, 0);
}

bool ConfigReader::Flag(const Key& key, bool fallback) {
  const Json& value = Find(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    Invalid(fmt::format("{} is {}; it must be true or false", name_, Show(value)));
    return fallback;
  }
  return value.get<bool>();
}

std::string ConfigReader::Text(const Key& key, const std::string& fallback) {
  const Json& value = Find(key);
  if (value.is_null()) return fallback;
  if (!value.is_string()) {
    Invalid(fmt::format("{} is {}; it must be a string", name_, Show(value)));
    return fallback;
  }
  return value.get<std::string>();
}

Activation ConfigReader::ReadActivation(const Key& key, const char* fallback) {
  const std::string name = Text(key, fallback);
  std::vector<std::string_view> known;
  for (const ActivationName& row : kActivations) {
    if (row.name == name) return row.activation;
    known.push_back(row.name);
  }
  Unsupported(fmt::format("{} \"{}\" is not supported; supported: {}", name_, name,
                          fmt::join(known, ", ")));
  return Activation::kSilu;
}

const Json& ConfigReader::List(const Key& key, bool (*fits)(const Json& element),
                               const char* of_what) {
  static const Json empty = Json::array();
  const Json& value = Find(key);
  if (value.is_null()) return empty;
  if (value.is_array() && std::ranges::all_of(value, fits)) return value;
  Invalid(fmt::format("{} must be a list of {}", name_, of_what));
  return empty;
}

std::vector<double> ConfigReader::Numbers(const Key& key) {
  return List(
      key, [](const Json& each) { return each.is_number() && each.get<double>() > 0; },
      "positive numbers");
}

std::vector<std::int64_t> ConfigReader::Counts(const Key& key) {
  return List(
      key, [](const Json& each) { return IsIntegerWithin(each, 0, kMostSize); },
      "integers from 0 to 2^30");
}

std::vector<std::string> ConfigReader::Texts(const Key& key) {
  return List(
      key, [](const Json& each) { return each.is_string(); }, "strings");
}

const Json& ConfigReader::Object(const Key& key) {
  static const Json empty = Json::object();
  const Json& value = Find(key);
  if (value.is_null()) return empty;
  if (!value.is_object()) {
    Invalid(fmt::format("{} must be an object", name_));
    return empty;
  }
  return value;
}

void ConfigReader::Require(const Key& key, const Json& value) {
  const Json& found = Find(key);
  if (found.is_null() || found == value) return;
  Unsupported(fmt::format("{} is {}; only {} is supported", name_, Show(found), Show(value)));
}

void ConfigReader::Ignore(std::initializer_list<const char*> keys) {
  known_.insert(keys.begin(), keys.end());
}

void ConfigReader::Invalid(const std::string& message) {
  if (!status_.ok()) return;
  status_ = Error(absl::StatusCode::kInvalidArgument, "INVALID_MODEL_CONFIG",
                  fmt::format("{}: {}", where_, message));
}

void ConfigReader::Unsupported(const std::string& message) {
  if (!status_.ok()) return;
  status_ = Error(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_MODEL",
                  fmt::format("{}: {}", where_, message));
}

void ConfigReader::Adopt(const absl::Status& status) { status_.Update(status); }

absl::Status ConfigReader::Finish() {
  for (const auto& [key, value] : json_.items()) {
    if (value.is_null() || known_.contains(key) || IsNeutral(key)) continue;
    Unsupported(
        fmt::format("key \"{}\" ({}) is not known for this model_type; if it does not change what "
                    "the model computes, remove it from the file",
                    key, Show(value)));
  }
  return status_;
}

}  // namespace teq::model_info
