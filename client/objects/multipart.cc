#include "client/objects/multipart.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <optional>
#include <system_error>

#include "client/objects/digest.h"
#include "client/objects/file.h"
#include "client/objects/s3_answers.h"
#include "client/objects/temporary_file.h"
#include "client/objects/transfer.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

absl::Status OtherBytes(const FileUpload& upload, const std::string& found) {
  return Error(
      absl::StatusCode::kDataLoss, "OBJECT_CORRUPT",
      fmt::format("{}: the bytes read to be sent have sha256 {} and not {}, as they should; "
                  "the file changed after it was summed, or its disk is faulty",
                  upload.file.string(), found, upload.sha256));
}

/// Gives out a file's parts in order, each once, and sums the whole. Thread-safe.
class PartReader {
 public:
  PartReader(const FileUpload& upload, std::vector<Part> parts)
      : upload_(upload),
        parts_(std::move(parts)),
        file_(::open(upload.file.c_str(), O_RDONLY | O_CLOEXEC)) {}

  struct PartBytes {
    std::size_t index = 0;
    std::string_view bytes;  // in the caller's buffer
  };

  /// The next part, in `buffer`; nothing after the last.
  absl::StatusOr<std::optional<PartBytes>> Next(std::string& buffer) {
    const std::lock_guard lock(mutex_);
    if (next_ == parts_.size()) return std::nullopt;
    const Part& part = parts_[next_];
    buffer.resize(part.length);
    std::size_t done = 0;
    while (done < part.length) {
      const ssize_t count = ::pread(file_.get(), buffer.data() + done, part.length - done,
                                    static_cast<off_t>(part.offset + done));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return ReadError(count < 0 ? errno : 0);
      done += static_cast<std::size_t>(count);
    }
    digest_.Add(buffer);
    return PartBytes{next_++, buffer};
  }

  /// After the last part: whether all bytes had the sha256 that they should.
  absl::Status CheckSum() {
    const std::lock_guard lock(mutex_);
    const std::string found = digest_.Hex();
    return found == upload_.sha256 ? absl::OkStatus() : OtherBytes(upload_, found);
  }

 private:
  [[nodiscard]] absl::Status ReadError(int error) const {
    return Error(
        absl::StatusCode::kInternal, "READ_FAILED",
        fmt::format("{}: cannot be read: {}", upload_.file.string(),
                    error == 0 ? "it has become shorter" : std::generic_category().message(error)));
  }

  const FileUpload& upload_;
  std::vector<Part> parts_;
  Descriptor file_;
  std::mutex mutex_;
  std::size_t next_ = 0;
  Sha256Digest digest_;
};

class MultipartUpload {
 public:
  MultipartUpload(const S3Client& client, const FileUpload& upload,
                  const TransferProgress& progress)
      : client_(client), upload_(upload), transfer_(upload.bytes, progress) {}

  absl::Status Run() {
    TEQ_RETURN_IF_ERROR(Begin());
    absl::Status status = SendParts();
    if (status.ok()) status = Complete();
    if (!status.ok()) Abort();
    return status;
  }

 private:
  [[nodiscard]] S3Call CallOf(const std::string& method, Pairs query) const {
    return {.method = method, .key = upload_.key, .uri = upload_.uri, .query = std::move(query)};
  }

  absl::Status Begin() {
    S3Call call = CallOf("POST", {{"uploads", ""}});
    call.headers = {{"x-amz-checksum-algorithm", "SHA256"}};
    call.body = std::string_view();
    call.go_on = [this] { return transfer_.GoOn(); };
    TEQ_ASSIGN_OR_RETURN(const HttpAnswer answer, client_.Perform(call));
    // A server that takes checksums says so.
    has_checksums_ = answer.Header("x-amz-checksum-algorithm") == "SHA256";
    TEQ_ASSIGN_OR_RETURN(id_, ParseUploadId(answer.body));
    return absl::OkStatus();
  }

  absl::Status SendParts() {
    std::vector<Part> parts = PlanParts(upload_.bytes, PartBytesOf(upload_.bytes));
    sent_.resize(parts.size());
    const auto threads = static_cast<int>(std::min<std::size_t>(parts.size(), kTransferThreads));
    PartReader reader(upload_, std::move(parts));
    TEQ_RETURN_IF_ERROR(
        RunInThreads(threads, transfer_, [this, &reader] { return SendPartsOf(reader); }));
    return reader.CheckSum();
  }

  // One thread's parts.
  absl::Status SendPartsOf(PartReader& reader) {
    std::string buffer;
    while (transfer_.GoOn()) {
      TEQ_ASSIGN_OR_RETURN(const auto part, reader.Next(buffer));
      if (!part) return absl::OkStatus();
      TEQ_RETURN_IF_ERROR(SendPart(part->index, part->bytes));
    }
    return Error(absl::StatusCode::kCancelled, "CANCELLED",
                 fmt::format("{}: the transfer was stopped", upload_.uri));
  }

  absl::Status SendPart(std::size_t index, std::string_view bytes) {
    S3Call call = CallOf("PUT", {{"partNumber", std::to_string(index + 1)}, {"uploadId", id_}});
    call.body = bytes;
    call.body_sha256 = Sha256(bytes);
    call.go_on = [this] { return transfer_.GoOn(); };
    if (has_checksums_) {
      sent_[index].sha256 = Base64(FromHex(call.body_sha256));
      call.headers.emplace_back("x-amz-checksum-sha256", sent_[index].sha256);
    }
    TEQ_ASSIGN_OR_RETURN(const HttpAnswer answer, client_.Perform(call));
    sent_[index].etag = answer.Header("etag");
    if (sent_[index].etag.empty()) {
      return Error(
          absl::StatusCode::kInternal, "BAD_ANSWER",
          fmt::format("{}: the store took part {} and gave it no ETag", upload_.uri, index + 1));
    }
    transfer_.Add(bytes.size());
    return absl::OkStatus();
  }

  absl::Status Complete() {
    const std::string body = CompleteBody(sent_);
    S3Call call = CallOf("POST", {{"uploadId", id_}});
    call.body = body;
    call.once = true;
    bool is_uncertain = false;  // whether a try before may have succeeded unheard
    return client_.Run([&](int) -> Attempt {
      HttpAnswer answer;
      Attempt attempt = client_.Try(call, answer);
      if (attempt.status.ok()) {
        attempt.status = ParseCompletedEtag(answer.body).status();
        attempt.again = true;  // a cut answer; of no interest where it is whole
      } else if (is_uncertain && ParseError(answer.body).code == "NoSuchUpload" && IsThere()) {
        return {};
      }
      is_uncertain = true;
      return attempt;
    });
  }

  // Whether the object is the one that these parts make.
  [[nodiscard]] bool IsThere() const {
    std::vector<std::string> etags;
    etags.reserve(sent_.size());
    for (const CompletedPart& part : sent_) etags.push_back(part.etag);
    const std::string etag = ComposedEtag(etags);
    const auto answer = client_.Perform(CallOf("HEAD", {}));
    return !etag.empty() && answer.ok() && answer->Header("etag") == "\"" + etag + "\"";
  }

  // What cannot be aborted now is for AbortUploads later; the first error is the one to tell.
  void Abort() const { client_.Perform(CallOf("DELETE", {{"uploadId", id_}})).IgnoreError(); }

  const S3Client& client_;
  const FileUpload& upload_;
  Transfer transfer_;
  bool has_checksums_ = false;
  std::string id_;
  std::vector<CompletedPart> sent_;
};

}  // namespace

absl::Status UploadWhole(const S3Client& client, const FileUpload& upload,
                         const TransferProgress& progress) {
  Transfer transfer(upload.bytes, progress);
  PartReader reader(upload, {{.offset = 0, .length = upload.bytes}});
  std::string content;
  TEQ_RETURN_IF_ERROR(reader.Next(content).status());
  TEQ_RETURN_IF_ERROR(reader.CheckSum());
  const S3Call call{.method = "PUT",
                    .key = upload.key,
                    .uri = upload.uri,
                    .headers = {{"x-amz-checksum-sha256", Base64(FromHex(upload.sha256))}},
                    .body = content,
                    .body_sha256 = upload.sha256,
                    .go_on = [&] { return transfer.GoOn(); }};
  TEQ_RETURN_IF_ERROR(client.Perform(call).status());
  transfer.Add(upload.bytes);
  return absl::OkStatus();
}

absl::Status UploadByParts(const S3Client& client, const FileUpload& upload,
                           const TransferProgress& progress) {
  return MultipartUpload(client, upload, progress).Run();
}

std::string ComposedEtag(const std::vector<std::string>& part_etags) {
  constexpr std::size_t kMd5Bytes = 16;
  std::string digests;
  for (std::string_view etag : part_etags) {
    if (etag.starts_with('"')) etag.remove_prefix(1);
    if (etag.ends_with('"')) etag.remove_suffix(1);
    const std::string digest = FromHex(etag);
    if (digest.size() != kMd5Bytes) return {};
    digests += digest;
  }
  return fmt::format("{}-{}", Hex(Md5(digests)), part_etags.size());
}

}  // namespace teq::objects
