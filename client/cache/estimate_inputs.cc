#include "client/cache/estimate_inputs.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "client/cache/object_names.h"
#include "client/model_info/model_files.h"
#include "client/objects/object_store.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cache {
namespace {

using model_info::ModelConfig;

// More is refused by ParseModelConfigText too, but would be fetched before.
constexpr std::uint64_t kMostBytes = 1 << 20;
constexpr std::int64_t kBytesPerToken = 4;
// Of WikiText-2's test part, which most perplexities are told of.
constexpr std::int64_t kUsualTokens = 300'000;

absl::Status NotReadable(const std::string& uri, std::string_view why) {
  return Error(absl::StatusCode::kFailedPrecondition, "CONFIG_NOT_READABLE",
               fmt::format("model.uri: config.json of {} cannot be read from here: {}; run teqctl "
                           "estimate --local on a machine that can read it",
                           uri, why),
               {{"uri", uri}});
}

/// config.json of a store's model, whole.
absl::StatusOr<std::string> ReadConfig(const std::string& uri, const UriPolicy& policy,
                                       const std::function<bool()>& go_on) {
  TEQ_ASSIGN_OR_RETURN(const std::shared_ptr<const objects::ObjectStore> store,
                       objects::OpenStore(uri, policy, go_on));
  TEQ_ASSIGN_OR_RETURN(const ObjectNames names, ObjectNames::Of(store));
  TEQ_ASSIGN_OR_RETURN(const auto object, names.Find(model_info::kConfigFile));
  if (!object) return NotReadable(uri, "there is none");
  if (object->bytes > kMostBytes) {
    return NotReadable(uri, fmt::format("it has more than {} bytes", kMostBytes));
  }
  return store->Read(object->key, 0, object->bytes);
}

absl::StatusOr<ModelConfig> ReadRemoteConfig(const std::string& uri, const UriPolicy& policy,
                                             const std::function<bool()>& go_on) {
  const absl::StatusOr<std::string> text = ReadConfig(uri, policy, go_on);
  if (absl::IsCancelled(text.status())) return text.status();
  if (ErrorReason(text.status()) == "CONFIG_NOT_READABLE") return text.status();
  if (!text.ok()) return NotReadable(uri, std::string(text.status().message()));
  return model_info::ParseModelConfigText(*text, uri + "/config.json");
}

std::int64_t TokensOf(const std::string& uri, const UriPolicy& policy) {
  const auto location = ResolveLocation(uri, UriUse::kData, policy);
  if (!location.ok() || location->scheme != Location::Scheme::kFile) return kUsualTokens;
  std::error_code unseen;
  const auto bytes = std::filesystem::file_size(location->path, unseen);
  if (unseen) return kUsualTokens;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(bytes) / kBytesPerToken);
}

}  // namespace

absl::StatusOr<EstimateInputs> ReadEstimateInputs(const teq::v1::JobSpec& spec,
                                                  const UriPolicy& policy,
                                                  const std::function<bool()>& go_on) {
  const std::string& uri = spec.model().uri();
  TEQ_ASSIGN_OR_RETURN(const Location model, ResolveLocation(uri, UriUse::kModel, policy));
  EstimateInputs inputs;
  if (model.scheme == Location::Scheme::kFile) {
    absl::StatusOr<ModelConfig> config = model_info::ReadModelConfig(model.path);
    if (ErrorReason(config.status()) == "MODEL_NOT_FOUND") {
      return NotReadable(uri, "there is no such file");
    }
    if (!config.ok()) return config.status();
    inputs.config = *std::move(config);
  } else {
    TEQ_ASSIGN_OR_RETURN(inputs.config, ReadRemoteConfig(uri, policy, go_on));
  }
  for (const std::string& text : spec.evaluation().uris()) {
    inputs.evaluation_tokens += TokensOf(text, policy);
  }
  return inputs;
}

}  // namespace teq::cache
