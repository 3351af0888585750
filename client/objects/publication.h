#pragma once

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
#include "client/objects/file.h"  // IWYU pragma: export
#include "client/objects/object_store.h"
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

/// Told a step's name just before it is taken: "upload_file" (for each try), "upload_manifest",
/// "publish_rename" (once for each entry that moves), "publish_manifest", "publish_cleanup". For
/// tests that stop a process there.
using StepHook = std::function<void(std::string_view)>;

/// Writes a report as a page for people, HTML.
using PageWriter = std::function<std::string(const teq::v1::Report&)>;

/// One attempt's files on their way to an output, from the first byte to the root manifest:
///
///   Begin -> files below StagingDirectory -> Settle, format by format -> Seal -> Upload -> (the
///   content is committed) -> Publish
///
/// Readers trust only <output>/manifest.json, which never changes. Other files that the run puts
/// beside the formats' directories are listed and published as report.json is.
///
/// The process that called Begin holds a lock while any copy of its Publication lives; copies are
/// the same publication. Not thread-safe.
///
/// A `file://` output holds everything itself:
///
///   <output>/<attempt>-<fence>/owner.json        written by Begin: whose directory this is
///   <output>/<attempt>-<fence>/<format>/...      written by the run
///   <output>/<attempt>-<fence>/report.json       written by Seal
///   <output>/<attempt>-<fence>/report.html       written by Seal, where it is given a page
///   <output>/<attempt>-<fence>/manifest.json     written by Seal, its paths the final ones
///   <output>/<format>/, <output>/report.{json,html}  moved there by Publish
///   <output>/manifest.json                       written by Publish, last
///
/// An object store moves nothing, so the attempt's prefix is the final place. Files are staged
/// below <data>/staging, in a directory of the attempt's own, and uploaded from when they are
/// settled, the others when they are sealed:
///
///   <output>/<attempt>-<fence>/owner.json        written by Begin
///   <output>/<attempt>-<fence>/<format>/...      written from Settle to Upload
///   <output>/<attempt>-<fence>/report.json, report.html   written by Upload
///   <output>/<attempt>-<fence>/manifest.json     written by Upload, last
///   <output>/manifest.json                       the same bytes, written by Publish from the store
class Publication {
 public:
  /// Checks that `output_uri` can take this publisher's result and makes room for the attempt.
  ///
  /// Removed first: what attempts of this job with a lower fence left there, unfinished uploads
  /// too; in a directory also what another job or run left that neither holds its lock nor was
  /// sealed; below <data>/staging what dead processes left. Nothing else is ever removed, and no
  /// symbolic link below the output is followed.
  ///
  /// FAILED_PRECONDITION, OUTPUT_IN_USE, names what lies there and the remedy: any root manifest
  /// (it never changes, so it could not be replaced at the end); in a directory a stray final one
  /// of `format_directories`, or a stray report.json or report.html; another job's or run's attempt
  /// that is alive or sealed, in an object store any. ABORTED, LEASE_LOST: a newer attempt of this
  /// job is there. PERMISSION_DENIED, OUTPUT_NOT_WRITABLE. RESOURCE_EXHAUSTED, DISK_FULL. And as
  /// ResolveUri or OpenStore, and the store's own.
  [[nodiscard]] static absl::StatusOr<Publication> Begin(
      const std::string& output_uri, const UriPolicy& policy, const Publisher& publisher,
      const std::vector<std::string>& format_directories,
      const std::filesystem::path& data = "teqd-data");

  /// The same attempt's files, found again by another process, to publish or to abandon them. OK
  /// also where nothing is left of them. Errors as ResolveUri or OpenStore. Calls of an object
  /// store end with CANCELLED soon after `go_on`, asked by any thread, says false.
  [[nodiscard]] static absl::StatusOr<Publication> Find(
      const std::string& output_uri, const UriPolicy& policy, const Publisher& publisher,
      const std::filesystem::path& data = "teqd-data",
      std::function<bool()> go_on = [] { return true; });

  /// Where the run writes one format's files, such as <output>/1-1/gptq. Exists after Begin.
  [[nodiscard]] std::filesystem::path StagingDirectory(const std::string& format_directory) const {
    return attempt_->StagingDirectory(format_directory);
  }

  /// These files of a format's directory, sha256 by name, will not change any more. Seal takes the
  /// digests as they are given, so that what was verified by them is what the manifest lists. An
  /// object store begins to take the files, while the run goes on and no newer attempt has begun:
  /// what cannot be sent now Upload sends, or tells the error of. `hook` is called from another
  /// thread. To be told once of a file.
  void Settle(const std::string& format_directory, const std::map<std::string, std::string>& sha256,
              const StepHook& hook = {}) {
    attempt_->Settle(format_directory, sha256, hook);
  }

  /// Syncs every staged file and directory to disk, and writes the attempt's manifest: schema
  /// "teqd.manifest.v1", job, job_uid, spec_digest, attempt, fence, artifacts (format, path, bytes,
  /// sha256), files (path relative to the output, bytes, sha256), report. Returns its sha256.
  /// Fills `report.artifacts` (path: the final place, as a loader would be given it) first, so that
  /// the manifest's report and the caller's are one; what the caller measured of a format (exact,
  /// perplexity) stays. An artifact's sha256 is that of the lines "<sha256>  <path below the
  /// directory>\n" of its files in name order, as sha256sum prints them. Also writes report.json,
  /// the same report, and report.html, what `page` makes of it; without a `page`, none.
  ///
  /// RESOURCE_EXHAUSTED, DISK_FULL. FAILED_PRECONDITION, UNEXPECTED_FILE: a symbolic link or
  /// another thing that is neither file nor directory was staged, or a format's directory is empty.
  /// DATA_LOSS, OBJECT_CORRUPT: a settled file was written to since, and has other bytes, or is
  /// gone.
  [[nodiscard]] absl::StatusOr<std::string> Seal(teq::v1::Report& report,
                                                 const PageWriter& page = {}) {
    return attempt_->Seal(report, page);
  }

  /// Brings the sealed files to where Publish needs them, the attempt's manifest last, and removes
  /// the staged ones. Nothing to do for a directory. `progress` counts the bytes of all files, from
  /// what was sent before; CANCELLED where it returns false. ABORTED, LEASE_LOST, where a newer
  /// attempt of this job has begun meanwhile: Abandon then removes what came after it looked. Other
  /// errors are the store's.
  [[nodiscard]] absl::Status Upload(const TransferProgress& progress = {},
                                    const StepHook& hook = {}) {
    return attempt_->Upload(progress, hook);
  }

  /// Makes the committed content the output's: moves a directory's entries to their final places,
  /// and writes the root manifest, never replacing anything. Can be repeated after a crash at any
  /// point, also by another process, on another machine where the output is an object store, and
  /// while another process does the same. OK where the root manifest already has
  /// `manifest_sha256`.
  ///
  /// DATA_LOSS, MANIFEST_MISMATCH: the attempt's manifest has another sha256, or it or a file that
  /// it lists is missing or of another size. FAILED_PRECONDITION, OUTPUT_IN_USE: another root
  /// manifest, or something else in a final place, came first. RESOURCE_EXHAUSTED, DISK_FULL. And
  /// the store's.
  [[nodiscard]] absl::Status Publish(const std::string& manifest_sha256,
                                     const StepHook& hook = {}) {
    return attempt_->Publish(manifest_sha256, hook);
  }

  /// Ends what is on its way, and removes the attempt's files and unfinished uploads, and an output
  /// directory where that leaves it empty and a run of this publisher made it. For a run that
  /// failed: never after its content was committed. OK where nothing is left; leaves alone what
  /// another publisher owns.
  [[nodiscard]] absl::Status Abandon() { return attempt_->Abandon(); }

  /// How one kind of output does it; each function as above.
  class Attempt {
   public:
    virtual ~Attempt() = default;
    [[nodiscard]] virtual std::filesystem::path StagingDirectory(
        const std::string& format_directory) const = 0;
    virtual void Settle(const std::string& format_directory,
                        const std::map<std::string, std::string>& sha256, const StepHook& hook) = 0;
    [[nodiscard]] virtual absl::StatusOr<std::string> Seal(teq::v1::Report& report,
                                                           const PageWriter& page) = 0;
    [[nodiscard]] virtual absl::Status Upload(const TransferProgress& progress,
                                              const StepHook& hook) = 0;
    [[nodiscard]] virtual absl::Status Publish(const std::string& manifest_sha256,
                                               const StepHook& hook) = 0;
    [[nodiscard]] virtual absl::Status Abandon() = 0;
  };
  explicit Publication(std::shared_ptr<Attempt> attempt) : attempt_(std::move(attempt)) {}

 private:
  std::shared_ptr<Attempt> attempt_;
};

}  // namespace teq::objects
