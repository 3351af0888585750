#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cache/cache.h"
#include "client/cache/fetcher.h"
#include "client/cache/object_names.h"
#include "client/cache/view.h"
#include "client/model_info/file_source.h"
#include "client/objects/object_store.h"
#include "proto/spec/uri.h"

namespace teq::cache {

/// A job's model and texts as files of this disk, wherever their URIs say they are. What file://
/// names is read where it lies; everything else comes through the cache, and its paths are links
/// that go with this object. A model's small files are there when its directory is; its weights
/// come when they are asked for.
class Inputs final : public model_info::FileSource {
 public:
  using OpenStoreFunction =
      std::function<absl::StatusOr<std::shared_ptr<objects::ObjectStore>>(std::string_view uri)>;

  /// Who watches a fetch.
  struct Watch {
    std::function<bool()> go_on;  // asked by any thread; false ends all calls with CANCELLED
    /// Told by the thread that waits for bytes, several times a second.
    std::function<void(std::uint64_t done, std::uint64_t total)> on_progress;
  };

  /// Makes no file before something is fetched.
  Inputs(Options cache, UriPolicy policy, const Watch& watch);
  /// The same with stores of one's own.
  Inputs(Options cache, UriPolicy policy, Watch watch, OpenStoreFunction open_store);
  ~Inputs() override;

  /// The directory of a model, and its URI: for a hub, that of the commit which all files come
  /// from. Its weights' files are there, but not their bytes.
  ///
  /// Errors as ResolveLocation, OpenStore, ObjectStore and Cache::Admit; INVALID_ARGUMENT,
  /// INVALID_CHECKPOINT, for pickled weights; DATA_LOSS, OBJECT_CORRUPT, for a small file that is
  /// not what the store announced. A file that is missing is for those who read the directory to
  /// complain of.
  struct Model {
    std::filesystem::path directory;
    std::string uri;
    bool is_whole = false;  // nothing has to be fetched
  };
  [[nodiscard]] absl::StatusOr<Model> FetchModel(const std::string& uri);

  /// The whole of one file. NOT_FOUND, TEXT_NOT_FOUND, and as FetchModel.
  [[nodiscard]] absl::StatusOr<std::filesystem::path> FetchText(const std::string& uri);

  /// From now on fetches the rest of all that was opened, in the background.
  void Prefetch();

  [[nodiscard]] absl::Status EnsureRange(const std::filesystem::path& file, std::uint64_t offset,
                                         std::uint64_t length) override;

  /// Of all of a file's bytes, which are fetched as far as they are not yet. Errors as
  /// CachedFile::Sha256 and FileSha256.
  [[nodiscard]] absl::StatusOr<std::string> Sha256(const std::filesystem::path& file);

  /// `status` with URIs in the place of this disk's paths.
  [[nodiscard]] absl::Status Named(const absl::Status& status) const;

 private:
  [[nodiscard]] absl::Status Check() const;
  [[nodiscard]] WaitProgress Progress() const;
  [[nodiscard]] absl::Status Start();
  [[nodiscard]] absl::Status AddSmallFiles(const ObjectNames& names, const Model& model);
  [[nodiscard]] absl::Status AddWeights(const ObjectNames& names, const Model& model);
  [[nodiscard]] absl::StatusOr<std::vector<std::string>> WeightNames(const ObjectNames& names,
                                                                     const Model& model) const;
  [[nodiscard]] absl::Status Add(std::string_view what, const std::filesystem::path& directory,
                                 const std::vector<Source>& sources);
  [[nodiscard]] absl::Status AddWhole(std::string_view what, const std::filesystem::path& directory,
                                      const std::vector<Source>& sources);

  const UriPolicy policy_;
  const Watch watch_;
  const std::shared_ptr<std::atomic<bool>> ends_ = std::make_shared<std::atomic<bool>>(false);
  const OpenStoreFunction open_store_;
  Cache cache_;
  std::unique_ptr<View> view_;                          // none before something is fetched
  std::map<std::filesystem::path, std::size_t> files_;  // numbers in the fetcher, by links
  std::map<std::string, std::string> uris_;             // by paths of the view
  std::unique_ptr<Fetcher> fetcher_;
};

}  // namespace teq::cache
