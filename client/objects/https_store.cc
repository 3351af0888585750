#include "client/objects/https_store.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "client/objects/object_key.h"
#include "client/objects/transfer.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/uri.h"

namespace teq::objects {
namespace {

using absl::StatusCode;

// The header ETag as ObjectInfo has it: without quotes; nothing of a weak one, which ranges cannot
// rely on.
std::string StrongEtag(const HttpAnswer& answer) {
  const std::string etag = answer.Header("etag");
  if (etag.size() < 2 || !etag.starts_with('"') || !etag.ends_with('"')) return {};
  return etag.substr(1, etag.size() - 2);
}

std::optional<std::uint64_t> Number(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// The whole file's size, of an answer that is a range of it: "bytes 0-9/100".
std::optional<std::uint64_t> TotalOf(const HttpAnswer& answer) {
  const std::string range = answer.Header("content-range");
  const std::size_t slash = range.rfind('/');
  if (slash == std::string::npos) return std::nullopt;
  return Number(std::string_view(range).substr(slash + 1));
}

// What tells a file without a strong ETag from the next one of its name.
struct Version {
  std::uint64_t bytes = 0;
  std::string last_modified;  // empty where the server does not say it

  [[nodiscard]] bool HasDateOf(const HttpAnswer& answer) const {
    return last_modified.empty() || answer.Header("last-modified") == last_modified;
  }
};

// The place of a Location header that a message may show: without a query, which may be a secret.
std::string Shown(std::string_view url) {
  std::string shown(url.substr(0, std::min<std::size_t>(url.find_first_of("?#"), 200)));
  std::ranges::replace_if(
      shown, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return shown;
}

class HttpsStore : public ObjectStore {
 public:
  explicit HttpsStore(HttpsStoreOptions options) : options_(std::move(options)) {}

  [[nodiscard]] absl::StatusOr<ObjectInfo> Head(const std::string& key) const override {
    HttpAnswer answer;
    TEQ_ASSIGN_OR_RETURN(ObjectInfo object, AskHead(key, answer));
    const std::lock_guard lock(mutex_);
    if (object.etag.empty()) {
      versions_[key] = {.bytes = object.bytes, .last_modified = answer.Header("last-modified")};
    } else {
      versions_.erase(key);
    }
    return object;
  }

  [[nodiscard]] absl::StatusOr<std::string> Read(const std::string& key, std::uint64_t offset,
                                                 std::uint64_t length,
                                                 const std::string& etag) const override {
    if (length == 0 || offset + length < offset) {
      HttpAnswer answer;
      TEQ_ASSIGN_OR_RETURN(const ObjectInfo object, AskHead(key, answer));
      if (!etag.empty() && object.etag != etag) return Changed(key);
      return length == 0 && offset <= object.bytes ? absl::StatusOr<std::string>("")
                                                   : BeyondEnd(key);
    }
    std::string content;
    const RangeSink sink = [&](std::uint64_t position, std::string_view bytes) {
      content.resize(position - offset);
      content += bytes;
      return true;
    };
    TEQ_RETURN_IF_ERROR(Fetch({.key = key, .etag = etag}, {offset, length}, sink, {}));
    return content;
  }

  [[nodiscard]] absl::Status Download(const ObjectInfo& object, const std::filesystem::path& file,
                                      const TransferProgress& progress) const override {
    if (object.bytes == 0) TEQ_RETURN_IF_ERROR(Read(object.key, 0, 0, object.etag).status());
    return DownloadByParts(
        object, file, progress,
        [&](const Part& part, const RangeSink& sink, const std::function<bool()>& go_on) {
          return Fetch(object, part, sink, go_on);
        });
  }

  [[nodiscard]] absl::StatusOr<std::vector<ObjectInfo>> List(
      const std::string& /*prefix*/) const override {
    return Error(StatusCode::kUnimplemented, "NOT_LISTABLE",
                 fmt::format("{}: a web server does not list its files", options_.uri));
  }

  [[nodiscard]] absl::Status Write(const std::string& /*key*/, std::string_view /*content*/,
                                   IfExists /*if_exists*/) override {
    return ReadOnly();
  }
  [[nodiscard]] absl::Status Upload(const std::string& /*key*/,
                                    const std::filesystem::path& /*file*/,
                                    const std::string& /*sha256*/,
                                    const TransferProgress& /*progress*/) override {
    return ReadOnly();
  }
  [[nodiscard]] absl::Status Remove(const std::string& /*key*/) override { return ReadOnly(); }
  [[nodiscard]] absl::Status AbortUploads(const std::string& /*prefix*/) override {
    return absl::OkStatus();
  }

  [[nodiscard]] absl::StatusOr<SignedUrl> PresignedUrl(const std::string& key,
                                                       absl::Duration /*ttl*/) const override {
    return Error(StatusCode::kFailedPrecondition, "NOT_PRESIGNABLE",
                 fmt::format("{}: a web server signs nothing; its URL is the object's", Uri(key)));
  }

  [[nodiscard]] std::string Uri(const std::string& key) const override {
    return key.empty() ? options_.uri : options_.uri + "/" + EncodePath(key);
  }

 private:
  // What the server says of a file, and the answer that says it.
  [[nodiscard]] absl::StatusOr<ObjectInfo> AskHead(const std::string& key,
                                                   HttpAnswer& answer) const {
    TEQ_ASSIGN_OR_RETURN(HttpRequest request, RequestOf(key));
    request.method = "HEAD";
    TEQ_RETURN_IF_ERROR(
        Retry(options_.retry, options_.world, [&](int) { return Try(key, request, answer); }));
    const std::optional<std::uint64_t> bytes = Number(answer.Header("content-length"));
    if (!bytes) {
      return BadAnswer(key, "has no Content-Length; serve the file itself, not a page made of it");
    }
    return ObjectInfo{.key = key, .bytes = *bytes, .etag = StrongEtag(answer)};
  }

  // What the bytes of a file without a strong ETag have to come from; nothing where an etag tells
  // it, or where Head was not asked.
  [[nodiscard]] std::optional<Version> ExpectedVersion(const ObjectInfo& object) const {
    if (!object.etag.empty()) return std::nullopt;
    const std::lock_guard lock(mutex_);
    const auto found = versions_.find(object.key);
    if (found == versions_.end()) return std::nullopt;
    return found->second;
  }

  [[nodiscard]] absl::StatusOr<HttpRequest> RequestOf(const std::string& key) const {
    TEQ_RETURN_IF_ERROR(CheckKey(key));
    return HttpRequest{.url = options_.base_url + EncodePath(key),
                       .headers = options_.headers,
                       .max_redirects = options_.max_redirects};
  }

  [[nodiscard]] absl::Status ReadOnly() const {
    return Error(
        StatusCode::kUnimplemented, "READ_ONLY_STORE",
        fmt::format("{}: a web server takes nothing; write to file:// or s3://", options_.uri));
  }
  [[nodiscard]] absl::Status BadAnswer(const std::string& key, std::string_view what) const {
    return Error(StatusCode::kInternal, "BAD_ANSWER",
                 fmt::format("{}: the server's answer {}", Uri(key), what));
  }
  [[nodiscard]] absl::Status Changed(const std::string& key) const {
    return Error(StatusCode::kFailedPrecondition, "OBJECT_CHANGED",
                 fmt::format("{}: is another file by now; start again with it", Uri(key)));
  }
  [[nodiscard]] absl::Status BeyondEnd(const std::string& key) const {
    return Error(StatusCode::kOutOfRange, "RANGE_BEYOND_END",
                 fmt::format("{}: has fewer bytes than asked for", Uri(key)));
  }

  // One request; OK for 200 and 206.
  [[nodiscard]] Attempt Try(const std::string& key, const HttpRequest& request,
                            HttpAnswer& answer) const {
    absl::StatusOr<HttpAnswer> sent = options_.transport->Send(request);
    if (!sent.ok()) {
      const bool again = absl::IsUnavailable(sent.status());
      return {.status = again ? Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                                      fmt::format("{}: {}; check the network", Uri(key),
                                                  std::string(sent.status().message())))
                              : WithContext(sent.status(), Uri(key)),
              .again = again};
    }
    answer = *std::move(sent);
    if (answer.status == 200 || answer.status == 206) return {};
    return Failure(key, answer);
  }

  [[nodiscard]] Attempt Failure(const std::string& key, const HttpAnswer& answer) const {
    const std::string uri = Uri(key);
    const int status = answer.status;
    if (status == 408 || status == 429 || (status >= 500 && status != 501)) {
      return {.status = Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                              fmt::format("{}: answers HTTP {}; try again later", uri, status)),
              .again = true,
              .wait = ParseRetryAfter(answer.Header("retry-after"), options_.world.now())};
    }
    if (status == 404 || status == 410) {
      return {.status = Error(StatusCode::kNotFound, "OBJECT_NOT_FOUND",
                              fmt::format("{}: there is no such file", uri))};
    }
    if (status == 401 || status == 403) {
      return {.status = Error(StatusCode::kPermissionDenied, "OBJECT_ACCESS_DENIED",
                              fmt::format("{}: answers HTTP {}; the server gives it to nobody, or "
                                          "not without a password, which no URI can hold",
                                          uri, status))};
    }
    if (status == 412) return {.status = Changed(key)};
    if (status == 416) return {.status = BeyondEnd(key)};
    if (status >= 300 && status < 400) {
      return {.status = Error(StatusCode::kFailedPrecondition, "REDIRECTED",
                              fmt::format("{}: leads to {}; redirects are not followed: name that "
                                          "place itself",
                                          uri, Shown(answer.Header("location"))))};
    }
    return {.status = Error(StatusCode::kInternal, "OBJECT_STORE_ERROR",
                            fmt::format("{}: answers HTTP {}", uri, status))};
  }

  // All bytes of a part, after as many tries as that takes. `object.bytes` is 0 where it is
  // unknown.
  absl::Status Fetch(const ObjectInfo& object, const Part& part, const RangeSink& sink,
                     const std::function<bool()>& go_on) const {
    std::uint64_t received = 0;
    return Retry(options_.retry, options_.world, [&](int) -> Attempt {
      Attempt attempt = FetchOnce(object, part, sink, go_on, received);
      attempt.again = attempt.again && (!go_on || go_on());
      return attempt;
    });
  }

  Attempt FetchOnce(const ObjectInfo& object, const Part& part, const RangeSink& sink,
                    const std::function<bool()>& go_on, std::uint64_t& received) const {
    if (received == part.length) return {};
    const std::uint64_t first = part.offset + received;
    const std::uint64_t last = part.offset + part.length - 1;
    absl::StatusOr<HttpRequest> request = RequestOf(object.key);
    if (!request.ok()) return {.status = request.status()};
    const bool is_whole = first == 0 && part.length == object.bytes;
    if (!is_whole) request->headers.emplace_back("Range", fmt::format("bytes={}-{}", first, last));
    if (!object.etag.empty()) {
      // Servers that do not know the one know the other; both say the same.
      request->headers.emplace_back("If-Match", "\"" + object.etag + "\"");
      if (!is_whole) request->headers.emplace_back("If-Range", "\"" + object.etag + "\"");
    }
    const std::optional<Version> version = ExpectedVersion(object);
    absl::Status refused;
    request->sink = [&](const HttpAnswer& answer, std::string_view bytes) {
      refused = CheckHead(object, version, answer, is_whole, first);
      if (refused.ok() && bytes.size() > part.length - received) {
        refused = BadAnswer(object.key, "has more bytes than asked for");
      }
      if (!refused.ok()) return false;
      const std::uint64_t offset = part.offset + received;
      received += bytes.size();
      return sink(offset, bytes);
    };
    request->go_on = go_on;
    HttpAnswer answer;
    Attempt attempt = Try(object.key, *request, answer);
    if (!refused.ok()) return {.status = refused};
    if (!attempt.status.ok() || received == part.length) return attempt;
    return {.status = Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                            fmt::format("{}: the answer ended after {} of {} bytes",
                                        Uri(object.key), received, part.length)),
            .again = true};
  }

  // What has to hold before a byte of an answer is taken.
  [[nodiscard]] absl::Status CheckHead(const ObjectInfo& object,
                                       const std::optional<Version>& version,
                                       const HttpAnswer& answer, bool is_whole,
                                       std::uint64_t first) const {
    if (!object.etag.empty() && StrongEtag(answer) != object.etag) return Changed(object.key);
    if (!is_whole && !answer.IsRangeFrom(first)) {
      return Error(StatusCode::kFailedPrecondition, "NO_RANGES",
                   fmt::format("{}: the server does not serve ranges of files; use one that does "
                               "(nginx, for example), or copy the file",
                               Uri(object.key)));
    }
    if (version && !version->HasDateOf(answer)) return Changed(object.key);
    const bool has_size =
        is_whole ? Number(answer.Header("content-length")).value_or(object.bytes) == object.bytes
                 : !version || TotalOf(answer).value_or(version->bytes) == version->bytes;
    return has_size ? absl::OkStatus() : Changed(object.key);
  }

  HttpsStoreOptions options_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, Version> versions_;  // by key, as the last Head found it
};

}  // namespace

std::shared_ptr<ObjectStore> OpenHttpsStore(HttpsStoreOptions options) {
  return std::make_shared<HttpsStore>(std::move(options));
}

}  // namespace teq::objects
