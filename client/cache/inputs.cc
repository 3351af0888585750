#include "client/cache/inputs.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "client/cache/object_names.h"
#include "client/model_info/model_files.h"
#include "client/model_info/safetensors_header.h"
#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cache {
namespace {

namespace fs = std::filesystem;

// Enough for what one store gives a machine; each holds one chunk in memory.
constexpr int kThreads = 8;
constexpr std::string_view kModelDirectory = "model";
constexpr std::string_view kTextDirectory = "texts";

/// "hf://owner/name@commit", of the store's own spelling of a file below it.
std::string DirectoryUri(const objects::ObjectStore& store) {
  std::string uri = store.Uri(std::string(model_info::kConfigFile));
  uri.resize(uri.size() - model_info::kConfigFile.size() - 1);
  return uri;
}

/// What holds the object of a location, and its name there.
std::pair<Location, std::string> Parent(Location location) {
  const std::size_t slash = location.key.rfind('/');
  std::string name = location.key.substr(slash == std::string::npos ? 0 : slash + 1);
  location.key.resize(slash == std::string::npos ? 0 : slash);
  return {std::move(location), std::move(name)};
}

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos;
       at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

}  // namespace

Inputs::Inputs(Options cache, UriPolicy policy, const Watch& watch)
    : Inputs(std::move(cache), std::move(policy), watch,
             // The policy has been asked about the whole URI before.
             [this, go_on = watch.go_on](std::string_view uri) {
               return objects::OpenStore(uri, {},
                                         [go_on, ends = ends_] { return !*ends && go_on(); });
             }) {}

Inputs::Inputs(Options cache, UriPolicy policy, Watch watch, OpenStoreFunction open_store)
    : policy_(std::move(policy)),
      watch_(std::move(watch)),
      open_store_(std::move(open_store)),
      cache_(std::move(cache)) {}

// The fetcher's threads end with what they wait for.
Inputs::~Inputs() { *ends_ = true; }

absl::Status Inputs::Check() const {
  if (watch_.go_on()) return absl::OkStatus();
  return Error(absl::StatusCode::kCancelled, "CANCELLED", "the run was cancelled");
}

WaitProgress Inputs::Progress() const {
  return [this](std::uint64_t done, std::uint64_t total) {
    watch_.on_progress(done, total);
    return Check();
  };
}

absl::Status Inputs::Start() {
  if (view_) return absl::OkStatus();
  TEQ_ASSIGN_OR_RETURN(view_, cache_.NewView([this] { return Check(); }));
  fetcher_ = std::make_unique<Fetcher>(kThreads);
  return absl::OkStatus();
}

absl::Status Inputs::Add(std::string_view what, const fs::path& directory,
                         const std::vector<Source>& sources) {
  TEQ_ASSIGN_OR_RETURN(const auto files, cache_.Admit(what, sources, [this] { return Check(); }));
  for (std::size_t i = 0; i < files.size(); ++i) {
    const fs::path link = directory / sources[i].object.key;
    TEQ_RETURN_IF_ERROR(View::Add(link, files[i]->path()));
    files_[link] = fetcher_->Add(files[i]);
  }
  return absl::OkStatus();
}

absl::Status Inputs::AddWhole(std::string_view what, const fs::path& directory,
                              const std::vector<Source>& sources) {
  TEQ_RETURN_IF_ERROR(Add(what, directory, sources));
  for (const Source& source : sources) {
    const fs::path link = directory / source.object.key;
    TEQ_RETURN_IF_ERROR(EnsureRange(link, 0, source.object.bytes));
    // These are read from now on, before a prefetch would compare them.
    if (!source.object.sha256.empty()) TEQ_RETURN_IF_ERROR(Sha256(link).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<Inputs::Model> Inputs::FetchModel(const std::string& uri) {
  TEQ_ASSIGN_OR_RETURN(const Location location, ResolveLocation(uri, UriUse::kModel, policy_));
  if (location.scheme == Location::Scheme::kFile) return Model{location.path, uri, true};
  TEQ_ASSIGN_OR_RETURN(const std::shared_ptr<const objects::ObjectStore> store, open_store_(uri));
  TEQ_ASSIGN_OR_RETURN(const ObjectNames names, ObjectNames::Of(store));
  TEQ_RETURN_IF_ERROR(Start());
  const bool is_hub = location.scheme == Location::Scheme::kHub;
  Model model{view_->directory() / kModelDirectory, is_hub ? DirectoryUri(*store) : uri};
  uris_[model.directory] = model.uri;
  TEQ_RETURN_IF_ERROR(AddSmallFiles(names, model));
  TEQ_RETURN_IF_ERROR(AddWeights(names, model));
  return model;
}

absl::Status Inputs::AddSmallFiles(const ObjectNames& names, const Model& model) {
  std::vector<std::string_view> optional = {model_info::kWeightsIndexFile, model_info::kCardFile};
  optional.insert(optional.end(), model_info::kCompanionFiles.begin(),
                  model_info::kCompanionFiles.end());
  std::vector<Source> sources;
  TEQ_RETURN_IF_ERROR(Check());
  TEQ_ASSIGN_OR_RETURN(const auto config, names.Find(model_info::kConfigFile));
  if (config) sources.push_back({names.store(), *config});
  for (const std::string_view name : optional) {
    TEQ_RETURN_IF_ERROR(Check());
    TEQ_ASSIGN_OR_RETURN(const auto object, names.FindOptional(name));
    if (object) sources.push_back({names.store(), *object});
  }
  return AddWhole(model.uri, model.directory, sources);
}

absl::StatusOr<std::vector<std::string>> Inputs::WeightNames(const ObjectNames& names,
                                                             const Model& model) const {
  TEQ_ASSIGN_OR_RETURN(const auto single, names.FindOptional(model_info::kWeightsFile));
  if (single) return std::vector{std::string(model_info::kWeightsFile)};
  const fs::path index = model.directory / model_info::kWeightsIndexFile;
  if (files_.contains(index)) return model_info::ReadShardNames(index);
  TEQ_ASSIGN_OR_RETURN(const auto pickle, names.FindPickle());
  if (pickle) return model_info::PickledWeights(model.directory / *pickle);
  // Weights that are forbidden are not missing.
  for (const std::string_view name : {model_info::kWeightsFile, model_info::kWeightsIndexFile}) {
    TEQ_RETURN_IF_ERROR(names.Find(name).status());
  }
  return std::vector<std::string>();
}

absl::Status Inputs::AddWeights(const ObjectNames& names, const Model& model) {
  TEQ_ASSIGN_OR_RETURN(const std::vector<std::string> wanted, WeightNames(names, model));
  std::vector<Source> sources;
  for (const std::string& name : wanted) {
    TEQ_RETURN_IF_ERROR(Check());
    TEQ_ASSIGN_OR_RETURN(const auto object, names.Find(name));
    if (object) sources.push_back({names.store(), *object});
  }
  return Add(model.uri, model.directory, sources);
}

absl::StatusOr<fs::path> Inputs::FetchText(const std::string& uri) {
  TEQ_ASSIGN_OR_RETURN(const Location location, ResolveLocation(uri, UriUse::kData, policy_));
  if (location.scheme == Location::Scheme::kFile) return location.path;
  const auto [parent, name] = Parent(location);
  TEQ_ASSIGN_OR_RETURN(const std::shared_ptr<const objects::ObjectStore> store,
                       open_store_(UriOf(parent)));
  const auto object = store->Head(name);
  if (!object.ok() && ErrorReason(object.status()) == "OBJECT_NOT_FOUND") {
    return Error(absl::StatusCode::kNotFound, "TEXT_NOT_FOUND",
                 fmt::format("{}: no such object", uri));
  }
  if (!object.ok()) return object.status();
  TEQ_RETURN_IF_ERROR(Start());
  // A directory for each: two may have one name.
  const fs::path directory =
      view_->directory() / fmt::format("{}-{}", kTextDirectory, uris_.size());
  uris_[directory / name] = uri;
  TEQ_RETURN_IF_ERROR(AddWhole(uri, directory, {{store, *object}}));
  return directory / name;
}

void Inputs::Prefetch() {
  if (fetcher_) fetcher_->Prefetch();
}

absl::Status Inputs::EnsureRange(const fs::path& file, std::uint64_t offset, std::uint64_t length) {
  const auto found = files_.find(file);
  if (found == files_.end()) return absl::OkStatus();
  return fetcher_->EnsureRange(found->second, offset, length, Progress());
}

absl::StatusOr<std::string> Inputs::Sha256(const fs::path& file) {
  const auto found = files_.find(file);
  if (found == files_.end()) return objects::FileSha256(file);
  return fetcher_->Sha256(found->second, Progress());
}

absl::Status Inputs::Named(const absl::Status& status) const {
  if (status.ok()) return status;
  std::string message(status.message());
  for (const auto& [path, uri] : uris_) ReplaceAll(message, path, uri);
  absl::Status named(status.code(), message);
  status.ForEachPayload(
      [&](absl::string_view type, const absl::Cord& payload) { named.SetPayload(type, payload); });
  return named;
}

}  // namespace teq::cache
