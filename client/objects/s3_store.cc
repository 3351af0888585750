#include "client/objects/s3_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <system_error>

#include "client/objects/digest.h"
#include "client/objects/multipart.h"
#include "client/objects/object_key.h"
#include "client/objects/s3_answers.h"
#include "client/objects/s3_client.h"
#include "client/objects/transfer.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxListed = 1'000'000;
constexpr absl::Duration kLongestPresigned = absl::Hours(24 * 7);

// An ETag without its quotes.
std::string Unquoted(std::string_view etag) {
  if (etag.size() >= 2 && etag.starts_with('"') && etag.ends_with('"')) {
    etag = etag.substr(1, etag.size() - 2);
  }
  return std::string(etag);
}

absl::Status BadAnswer(const std::string& uri, std::string_view what) {
  return Error(absl::StatusCode::kInternal, "BAD_ANSWER",
               fmt::format("{}: the store's answer {}", uri, what));
}

absl::Status TooMany(const std::string& uri) {
  return Error(
      absl::StatusCode::kResourceExhausted, "TOO_MANY_OBJECTS",
      fmt::format("{}: has more than {} objects; choose a longer prefix", uri, kMaxListed));
}

absl::StatusOr<std::uint64_t> ContentLength(const std::string& uri, const HttpAnswer& answer) {
  const std::string text = answer.Header("content-length");
  std::uint64_t bytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  if (error != std::errc() || end != text.data() + text.size()) {
    return BadAnswer(uri, "has no Content-Length");
  }
  return bytes;
}

class S3Store : public ObjectStore {
 public:
  explicit S3Store(S3StoreOptions options) : client_(std::move(options)) {}

  [[nodiscard]] absl::StatusOr<ObjectInfo> Head(const std::string& key) const override {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    S3Call call = CallOf("HEAD", key);
    HttpAnswer answer;
    const auto ask = [&] { return client_.Run([&](int) { return client_.Try(call, answer); }); };
    if (const absl::Status status = ask(); !status.ok()) {
      TEQ_RETURN_IF_ERROR(Explained(status, call));
      TEQ_RETURN_IF_ERROR(ask());  // keys that expired are new by now
    }
    TEQ_ASSIGN_OR_RETURN(const std::uint64_t bytes, ContentLength(call.uri, answer));
    return ObjectInfo{.key = key, .bytes = bytes, .etag = Unquoted(answer.Header("etag"))};
  }

  [[nodiscard]] absl::StatusOr<std::string> Read(const std::string& key, std::uint64_t offset,
                                                 std::uint64_t length,
                                                 const std::string& etag) const override {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    if (length == 0) return ReadNothing(key, offset, etag);
    if (offset + length < offset) return BeyondEnd(key);
    std::string content;
    const RangeSink sink = [&](std::uint64_t position, std::string_view bytes) {
      content.resize(position - offset);  // a try that began anew
      content += bytes;
      return true;
    };
    TEQ_RETURN_IF_ERROR(Fetch(key, {offset, length}, etag, sink, {}));
    return content;
  }

  [[nodiscard]] absl::StatusOr<std::vector<ObjectInfo>> List(
      const std::string& prefix) const override {
    std::vector<ObjectInfo> objects;
    S3Call call{.uri = Uri(prefix)};
    for (std::string token, last; true; last = token) {
      call.query = {{"list-type", "2"}, {"encoding-type", "url"}, {"prefix", Root() + prefix}};
      if (!token.empty()) call.query.emplace_back("continuation-token", token);
      TEQ_ASSIGN_OR_RETURN(const HttpAnswer answer, client_.Perform(call));
      absl::StatusOr<ListPage> page = ParseListPage(answer.body);
      if (!page.ok()) return WithContext(page.status(), call.uri);
      for (ObjectInfo& object : page->objects) {
        if (!object.key.starts_with(Root())) return BadAnswer(call.uri, "has a key of elsewhere");
        object.key.erase(0, Root().size());
        object.etag = Unquoted(object.etag);
        // What others put there under names that are none of ours, such as "directory/".
        if (CheckKey(object.key).ok()) objects.push_back(std::move(object));
      }
      if (objects.size() > kMaxListed) return TooMany(call.uri);
      token = page->next;
      if (token.empty()) break;
      if (token == last) return BadAnswer(call.uri, "names the same page again");
    }
    std::ranges::sort(objects, {}, &ObjectInfo::key);
    return objects;
  }

  [[nodiscard]] absl::Status Write(const std::string& key, std::string_view content,
                                   IfExists if_exists) override {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    S3Call call = CallOf("PUT", key);
    call.body = content;
    Sha256Digest digest;
    digest.Add(content);
    call.headers.emplace_back("x-amz-checksum-sha256", Base64(digest.Raw()));
    if (if_exists == IfExists::kFail) {
      call.headers.emplace_back("if-none-match", "*");
      call.once = true;
    }
    bool is_uncertain = false;  // whether a try before may have succeeded unheard
    return client_.Run([&](int) -> Attempt {
      HttpAnswer answer;
      Attempt attempt = client_.Try(call, answer);
      if (answer.status == 412) {
        if (is_uncertain && Holds(key, content)) return {};
        return {.status = Exists(call.uri)};
      }
      is_uncertain = true;
      return attempt;
    });
  }

  [[nodiscard]] absl::Status Upload(const std::string& key, const fs::path& file,
                                    const std::string& sha256,
                                    const TransferProgress& progress) override {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    struct stat info {};
    if (::stat(file.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
      return Error(absl::StatusCode::kNotFound, "FILE_NOT_FOUND",
                   fmt::format("{}: there is no such file", file.string()));
    }
    const FileUpload upload{.file = file,
                            .bytes = static_cast<std::uint64_t>(info.st_size),
                            .sha256 = sha256,
                            .key = Root() + key,
                            .uri = Uri(key)};
    const auto send = upload.bytes <= kPartBytes ? UploadWhole : UploadByParts;
    TEQ_RETURN_IF_ERROR(send(client_, upload, progress));
    TEQ_ASSIGN_OR_RETURN(const ObjectInfo object, Head(key));
    if (object.bytes == upload.bytes) return absl::OkStatus();
    return Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT",
                 fmt::format("{}: has {} bytes after {} were sent; somebody else writes it, or the "
                             "store is faulty",
                             upload.uri, object.bytes, upload.bytes));
  }

  [[nodiscard]] absl::Status Download(const ObjectInfo& object, const fs::path& file,
                                      const TransferProgress& progress) const override {
    TEQ_RETURN_IF_ERROR(CheckKey(object.key));
    if (object.bytes == 0) {
      TEQ_RETURN_IF_ERROR(ReadNothing(object.key, 0, object.etag).status());
    }
    return DownloadByParts(object, file, progress,
                           [&](const Part& part, const RangeSink& sink,
                               const std::function<bool()>& go_on) -> absl::Status {
                             return Fetch(object.key, part, object.etag, sink, go_on,
                                          part.length == object.bytes);
                           });
  }

  [[nodiscard]] absl::Status Remove(const std::string& key) override {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    const absl::Status status = client_.Perform(CallOf("DELETE", key)).status();
    return ErrorReason(status) == "OBJECT_NOT_FOUND" ? absl::OkStatus() : status;
  }

  [[nodiscard]] absl::Status AbortUploads(const std::string& prefix) override {
    S3Call call{.uri = Uri(prefix)};
    UploadsPage page{.is_last = false};
    for (std::size_t aborted = 0; !page.is_last; aborted += page.uploads.size()) {
      if (aborted > kMaxListed) return TooMany(call.uri);
      // Without encoding-type: Ceph encodes the keys then, and does not say so.
      call.query = {{"uploads", ""}, {"prefix", Root() + prefix}};
      if (!page.next_key.empty()) call.query.emplace_back("key-marker", page.next_key);
      if (!page.next_id.empty()) call.query.emplace_back("upload-id-marker", page.next_id);
      TEQ_ASSIGN_OR_RETURN(const HttpAnswer answer, client_.Perform(call));
      absl::StatusOr<UploadsPage> next = ParseUploadsPage(answer.body);
      if (!next.ok()) return WithContext(next.status(), call.uri);
      if (!next->is_last && next->next_key == page.next_key && next->next_id == page.next_id) {
        return BadAnswer(call.uri, "names the same page again");
      }
      page = *std::move(next);
      for (const UploadsPage::Upload& upload : page.uploads) {
        if (!upload.key.starts_with(Root() + prefix)) {
          return BadAnswer(call.uri, "has a key of elsewhere");
        }
        TEQ_RETURN_IF_ERROR(Abort(upload));
      }
    }
    return absl::OkStatus();
  }

  [[nodiscard]] absl::StatusOr<SignedUrl> PresignedUrl(const std::string& key,
                                                       absl::Duration ttl) const override {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    if (ttl < absl::Seconds(1) || ttl > kLongestPresigned) {
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_TTL",
                   fmt::format("{}: a URL for {} s cannot be made; from 1 s to 7 days", Uri(key),
                               absl::ToInt64Seconds(ttl)));
    }
    return client_.Presign(Root() + key, ttl);
  }

  [[nodiscard]] std::string Uri(const std::string& key) const override {
    const std::string& prefix = client_.options().prefix;
    return UriOf({.scheme = Location::Scheme::kS3,
                  .authority = client_.options().bucket,
                  .key = key.empty() ? prefix : Root() + key});
  }

 private:
  // What keys in the bucket begin with: "" or "prefix/".
  [[nodiscard]] std::string Root() const {
    const std::string& prefix = client_.options().prefix;
    return prefix.empty() ? "" : prefix + "/";
  }

  [[nodiscard]] S3Call CallOf(const std::string& method, const std::string& key) const {
    return {.method = method, .key = Root() + key, .uri = Uri(key)};
  }

  // An answer to HEAD has no body that says what is wrong; the same question by GET has. OK where
  // that finds nothing wrong.
  [[nodiscard]] absl::Status Explained(const absl::Status& status, S3Call call) const {
    if (absl::IsUnavailable(status)) return status;
    call.method = "GET";
    call.headers = {{"range", "bytes=0-0"}};
    return client_.Perform(call).status();
  }

  static absl::Status Exists(const std::string& uri) {
    return Error(absl::StatusCode::kAlreadyExists, "OBJECT_EXISTS",
                 fmt::format("{}: exists already and is not replaced; choose another place, or "
                             "remove it",
                             uri),
                 {{"uri", uri}});
  }

  [[nodiscard]] bool Holds(const std::string& key, std::string_view content) const {
    const absl::StatusOr<ObjectInfo> object = Head(key);
    if (!object.ok() || object->bytes != content.size()) return false;
    const absl::StatusOr<std::string> found = Read(key, 0, object->bytes, object->etag);
    return found.ok() && *found == content;
  }

  // No bytes cannot be asked for by a range.
  [[nodiscard]] absl::StatusOr<std::string> ReadNothing(const std::string& key,
                                                        std::uint64_t offset,
                                                        const std::string& etag) const {
    TEQ_ASSIGN_OR_RETURN(const ObjectInfo object, Head(key));
    if (!etag.empty() && object.etag != etag) {
      return Error(absl::StatusCode::kFailedPrecondition, "OBJECT_CHANGED",
                   fmt::format("{}: is another object by now; start again with it", Uri(key)));
    }
    if (offset <= object.bytes) return std::string();
    return BeyondEnd(key);
  }

  [[nodiscard]] absl::Status BeyondEnd(const std::string& key) const {
    return Error(absl::StatusCode::kOutOfRange, "RANGE_BEYOND_END",
                 fmt::format("{}: has fewer bytes than asked for", Uri(key)));
  }

  // Where a fetch stands over its tries.
  struct Position {
    std::uint64_t received = 0;
    std::string checksum;  // base 64; of the whole object, where the store has one
    std::unique_ptr<Sha256Digest> digest = std::make_unique<Sha256Digest>();
  };

  // A RangeFetcher. With `is_whole`, the object's checksum is checked where the store has one.
  absl::Status Fetch(const std::string& key, const Part& part, const std::string& etag,
                     const RangeSink& sink, const std::function<bool()>& go_on,
                     bool is_whole = false) const {
    Position position;
    return client_.Run(
        [&](int) { return FetchOnce(key, part, etag, sink, go_on, is_whole, position); }, go_on);
  }

  Attempt FetchOnce(const std::string& key, const Part& part, const std::string& etag,
                    const RangeSink& sink, const std::function<bool()>& go_on, bool is_whole,
                    Position& position) const {
    if (position.received == part.length) return CheckSum(Uri(key), is_whole, position);
    const std::uint64_t first = part.offset + position.received;
    S3Call call = CallOf("GET", key);
    if (!etag.empty()) call.headers.emplace_back("if-match", "\"" + etag + "\"");
    if (is_whole && position.received == 0) {
      call.headers.emplace_back("x-amz-checksum-mode", "ENABLED");
    } else {
      call.headers.emplace_back("range",
                                fmt::format("bytes={}-{}", first, part.offset + part.length - 1));
    }
    const bool is_range = call.headers.back().first == "range";
    absl::Status refused;
    call.sink = [&](const HttpAnswer& answer, std::string_view bytes) {
      if (is_range != answer.IsRangeFrom(first) || bytes.size() > part.length - position.received) {
        refused = BadAnswer(call.uri, "is not of the bytes asked for");
        return false;
      }
      if (!is_range) position.checksum = answer.Header("x-amz-checksum-sha256");
      if (is_whole) position.digest->Add(bytes);
      const std::uint64_t offset = part.offset + position.received;
      position.received += bytes.size();
      return sink(offset, bytes);
    };
    call.go_on = go_on;
    HttpAnswer answer;
    Attempt attempt = client_.Try(call, answer);
    if (!refused.ok()) return {.status = refused};
    if (!attempt.status.ok()) return attempt;
    if (position.received != part.length) {
      return {.status = Error(absl::StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                              fmt::format("{}: the answer ended after {} of {} bytes", call.uri,
                                          position.received, part.length)),
              .again = true};
    }
    return CheckSum(call.uri, is_whole, position);
  }

  static Attempt CheckSum(const std::string& uri, bool is_whole, Position& position) {
    // A "-" marks a checksum of parts' checksums.
    if (!is_whole || position.checksum.empty() ||
        position.checksum.find('-') != std::string::npos) {
      return {};
    }
    const std::string found = Base64(position.digest->Raw());
    if (found == position.checksum) return {};
    position = {};
    return {
        .status = Error(absl::StatusCode::kDataLoss, "OBJECT_CORRUPT",
                        fmt::format("{}: the bytes that came have another sha256 than the store "
                                    "has for them",
                                    uri)),
        .again = true};
  }

  absl::Status Abort(const UploadsPage::Upload& upload) const {
    const S3Call call{.method = "DELETE",
                      .key = upload.key,
                      .uri = UriOf({.scheme = Location::Scheme::kS3,
                                    .authority = client_.options().bucket,
                                    .key = upload.key}),
                      .query = {{"uploadId", upload.id}}};
    const absl::Status status = client_.Perform(call).status();
    return ErrorReason(status) == "OBJECT_NOT_FOUND" ? absl::OkStatus() : status;
  }

  S3Client client_;
};

}  // namespace

std::shared_ptr<ObjectStore> OpenS3Store(S3StoreOptions options) {
  return std::make_shared<S3Store>(std::move(options));
}

}  // namespace teq::objects
