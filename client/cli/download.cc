#include "client/cli/download.h"

#include <utility>

#include "client/objects/temporary_file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::cli {
namespace {

constexpr int kWhole = 200;
constexpr int kRange = 206;
constexpr int kTooManyRequests = 429;
constexpr int kServerErrors = 500;

absl::Status Failed(absl::StatusCode code, std::string_view reason, const std::string& file,
                    const std::string& what) {
  return Error(code, reason, fmt::format("{}: {}", file, what));
}

absl::Status StatusOf(const objects::HttpAnswer& answer, const std::string& file) {
  if (answer.status == kWhole || answer.status == kRange) return absl::OkStatus();
  if (answer.status == kTooManyRequests || answer.status >= kServerErrors) {
    return Failed(absl::StatusCode::kUnavailable, "DOWNLOAD_FAILED", file,
                  fmt::format("the store answered {}; try again later", answer.status));
  }
  return Failed(
      absl::StatusCode::kPermissionDenied, "DOWNLOAD_REFUSED", file,
      fmt::format("the store answered {} to the server's URL, which may have expired; try "
                  "again, or pull with credentials of your own, without --via-server",
                  answer.status));
}

// One download over its tries.
class Download {
 public:
  Download(const DownloadDeps& deps, const std::string& url, std::uint64_t bytes,
           const objects::TransferProgress& progress, std::string name)
      : deps_(deps), url_(url), bytes_(bytes), progress_(progress), name_(std::move(name)) {}

  // One request, from where the last one broke.
  absl::Status Try(const objects::TemporaryFile& file) {
    const std::uint64_t first = done_;
    absl::Status refused;
    objects::HttpRequest request;
    request.url = url_;
    if (first > 0) request.headers.emplace_back("range", fmt::format("bytes={}-", first));
    request.sink = [&](const objects::HttpAnswer& answer, std::string_view part) {
      refused = Take(file, first, answer, part);
      return refused.ok();
    };
    request.go_on = [this] { return GoesOn(); };
    const absl::StatusOr<objects::HttpAnswer> answer = deps_.transport.Send(request);
    TEQ_RETURN_IF_ERROR(refused);
    TEQ_RETURN_IF_ERROR(answer.status());
    TEQ_RETURN_IF_ERROR(StatusOf(*answer, name_));
    if (done_ == bytes_) return absl::OkStatus();
    return Failed(absl::StatusCode::kDataLoss, "DOWNLOAD_FAILED", name_,
                  fmt::format("{} bytes arrived, the manifest says {}", done_, bytes_));
  }

 private:
  [[nodiscard]] bool GoesOn() const { return !progress_ || progress_(done_, bytes_); }

  absl::Status Take(const objects::TemporaryFile& file, std::uint64_t first,
                    const objects::HttpAnswer& answer, std::string_view part) {
    if (first > 0 && !answer.IsRangeFrom(first)) {
      done_ = 0;
      return Failed(absl::StatusCode::kUnavailable, "DOWNLOAD_FAILED", name_,
                    "the store gives no ranges, so that a broken download starts again");
    }
    if (part.size() > bytes_ - done_) {
      return Failed(absl::StatusCode::kDataLoss, "DOWNLOAD_FAILED", name_,
                    fmt::format("more than the {} bytes of the manifest arrive", bytes_));
    }
    TEQ_RETURN_IF_ERROR(file.WriteAt(done_, part));
    done_ += part.size();
    if (GoesOn()) return absl::OkStatus();
    return Error(absl::StatusCode::kCancelled, "CANCELLED", "stopped");
  }

  const DownloadDeps& deps_;
  const std::string& url_;
  const std::uint64_t bytes_;
  const objects::TransferProgress& progress_;
  const std::string name_;
  std::uint64_t done_ = 0;
};

}  // namespace

absl::Status DownloadUrl(const DownloadDeps& deps, const std::string& url, std::uint64_t bytes,
                         const std::filesystem::path& to,
                         const objects::TransferProgress& progress) {
  TEQ_ASSIGN_OR_RETURN(objects::TemporaryFile file, objects::TemporaryFile::Beside(to));
  Download download(deps, url, bytes, progress, to.filename().string());
  TEQ_RETURN_IF_ERROR(
      objects::Retry(deps.retries, deps.world, [&](int /*attempt*/) -> objects::Attempt {
        absl::Status status = download.Try(file);
        const bool again = absl::IsUnavailable(status);
        return {.status = std::move(status), .again = again, .wait = std::nullopt};
      }));
  return file.Commit(objects::IfExists::kReplace);
}

}  // namespace teq::cli
