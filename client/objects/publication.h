#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/objects/file.h"  // IWYU pragma: export
#include "proto/spec/uri.h"
#include "teq/v1/report.pb.h"

namespace teq::objects {

/// Who publishes. `job` and `job_uid` are empty for a run without a server.
struct Publisher {
  std::string job;
  std::string job_uid;
  std::string spec_digest;
  int attempt = 1;
  std::int64_t fence = 1;
};

/// Told a step's name just before it is taken: "publish_rename" (once for each entry that moves),
/// "publish_manifest", "publish_cleanup". For tests that stop a process there.
using StepHook = std::function<void(std::string_view)>;

/// Writes a report as a page for people, HTML.
using PageWriter = std::function<std::string(const teq::v1::Report&)>;

/// One attempt's files under an output directory, from the first byte to the root manifest:
///
///   <output>/<attempt>-<fence>/owner.json        written by Begin: whose directory this is
///   <output>/<attempt>-<fence>/<format>/...      written by the run
///   <output>/<attempt>-<fence>/report.json       written by Seal
///   <output>/<attempt>-<fence>/report.html       written by Seal, where it is given a page
///   <output>/<attempt>-<fence>/manifest.json     written by Seal, its paths the final ones
///   <output>/<format>/, <output>/report.{json,html}  moved there by Publish
///   <output>/manifest.json                       written by Publish, last
///
/// Readers trust only <output>/manifest.json, which never changes. Other files that the run puts
/// into the attempt's directory are listed and moved as report.json is.
///
/// The process that called Begin holds a lock on the attempt's directory while any copy of its
/// Publication lives. Not thread-safe.
class Publication {
 public:
  /// Checks that `output_uri` can take this publisher's result and creates the attempt's directory.
  ///
  /// Removed first: directories named <attempt>-<fence> that carry an owner.json of this job with a
  /// lower fence, or of another job or run that neither holds their lock nor sealed them. Nothing
  /// else is ever removed, and no symbolic link below the output is followed.
  ///
  /// FAILED_PRECONDITION, OUTPUT_IN_USE, names what lies there and the remedy: any root manifest
  /// (it never changes, so it could not be replaced at the end); a stray final directory of one of
  /// `format_directories`, or a stray report.json or report.html; another job's or run's attempt
  /// that is alive or sealed. ABORTED, LEASE_LOST: a newer attempt of this job is there.
  /// PERMISSION_DENIED, OUTPUT_NOT_WRITABLE. RESOURCE_EXHAUSTED, DISK_FULL. And as ResolveUri.
  [[nodiscard]] static absl::StatusOr<Publication> Begin(
      const std::string& output_uri, const UriPolicy& policy, const Publisher& publisher,
      const std::vector<std::string>& format_directories);

  /// The same attempt's files, found again by another process, to publish or to abandon them. OK
  /// also where nothing is left of them. Errors as ResolveUri.
  [[nodiscard]] static absl::StatusOr<Publication> Find(const std::string& output_uri,
                                                        const UriPolicy& policy,
                                                        const Publisher& publisher);

  /// Where the run writes one format's files, such as <output>/1-1/gptq. Exists after Begin.
  [[nodiscard]] std::filesystem::path StagingDirectory(const std::string& format_directory) const;

  /// Where that directory will lie after Publish.
  [[nodiscard]] std::filesystem::path FinalDirectory(const std::string& format_directory) const;

  /// The directory above the staging directories, such as <output>/1-1.
  [[nodiscard]] std::filesystem::path AttemptDirectory() const;

  /// Syncs every staged file and directory to disk, and writes the attempt's manifest: schema
  /// "teqd.manifest.v1", job, job_uid, spec_digest, attempt, fence, artifacts (format, path, bytes,
  /// sha256), files (path relative to the output, bytes, sha256), report. Returns its sha256.
  /// Fills `report.artifacts` (path: FinalDirectory) first, so that the manifest's report and the
  /// caller's are one; what the caller measured of a format (exact, perplexity) stays. An artifact's sha256 is that of the lines "<sha256>  <path below the
  /// directory>\n" of its files in name order, as sha256sum prints them. Also writes report.json,
  /// the same report, and report.html, what `page` makes of it; without a `page`, none.
  ///
  /// RESOURCE_EXHAUSTED, DISK_FULL. FAILED_PRECONDITION, UNEXPECTED_FILE: a symbolic link or
  /// another thing that is neither file nor directory was staged, or a format's directory is empty.
  [[nodiscard]] absl::StatusOr<std::string> Seal(teq::v1::Report& report,
                                                 const PageWriter& page = {});

  /// Moves the attempt's entries to their final places and links the attempt's manifest as the root
  /// manifest, never replacing anything; then removes the attempt's directory. Each step is synced
  /// to disk before the next. Can be repeated after a crash at any point, also by another process,
  /// and while another process does the same. OK where the root manifest already has
  /// `manifest_sha256`.
  ///
  /// DATA_LOSS, MANIFEST_MISMATCH: the attempt's manifest has another sha256, or it or a file that
  /// it lists is missing or of another size. FAILED_PRECONDITION, OUTPUT_IN_USE: another root
  /// manifest, or something else in a final place, came first. RESOURCE_EXHAUSTED, DISK_FULL.
  [[nodiscard]] absl::Status Publish(const std::string& manifest_sha256, const StepHook& hook = {});

  /// Removes the attempt's directory, and the output directory where that leaves it empty and a run
  /// of this publisher made it. For a run that failed: never after its content was committed. OK
  /// where nothing is left; leaves alone what another publisher owns.
  [[nodiscard]] absl::Status Abandon();

 private:
  struct Lock;

  Publication(std::filesystem::path output, Publisher publisher)
      : output_(std::move(output)), publisher_(std::move(publisher)) {}

  std::filesystem::path output_;
  Publisher publisher_;
  std::shared_ptr<const Lock> lock_;
};

}  // namespace teq::objects
