#include "client/objects/hub_store.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "client/objects/endpoint.h"
#include "client/objects/file.h"
#include "client/objects/hub_answers.h"
#include "client/objects/sigv4.h"
#include "client/objects/transfer.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using absl::StatusCode;

constexpr std::string_view kDefaultEndpoint = "https://huggingface.co";
constexpr std::size_t kMaxListBytes = std::size_t{64} << 20;
// Redirects and errors come with a page, which may be longer than the file.
constexpr std::size_t kMaxPageBytes = std::size_t{64} << 10;
constexpr int kMaxRedirects = 5;

std::string Unquoted(std::string text) {
  if (text.starts_with("W/")) text.erase(0, 2);
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') {
    return text.substr(1, text.size() - 2);
  }
  return text;
}

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

class HubStore final : public ObjectStore {
 public:
  explicit HubStore(HubStoreOptions options) : options_(std::move(options)) {}

  /// Asks for the revision; before all else.
  absl::Status ReadRevision();

  absl::StatusOr<ObjectInfo> Head(const std::string& key) const override;
  absl::StatusOr<std::string> Read(const std::string& key, std::uint64_t offset,
                                   std::uint64_t length, const std::string& etag) const override;
  absl::StatusOr<std::vector<ObjectInfo>> List(const std::string& prefix) const override;
  absl::Status Download(const ObjectInfo& object, const std::filesystem::path& file,
                        const TransferProgress& progress) const override;

  absl::Status Write(const std::string& /*key*/, std::string_view /*content*/,
                     IfExists /*if_exists*/) override {
    return ReadOnly();
  }
  absl::Status Upload(const std::string& /*key*/, const std::filesystem::path& /*file*/,
                      const std::string& /*sha256*/,
                      const TransferProgress& /*progress*/) override {
    return ReadOnly();
  }
  absl::Status Remove(const std::string& /*key*/) override { return ReadOnly(); }
  absl::Status AbortUploads(const std::string& /*prefix*/) override { return absl::OkStatus(); }
  absl::StatusOr<SignedUrl> PresignedUrl(const std::string& key,
                                         absl::Duration /*ttl*/) const override {
    return Error(StatusCode::kFailedPrecondition, "NOT_PRESIGNABLE",
                 fmt::format("{}: a hub gives no URLs to others", Uri(key)));
  }
  std::string Uri(const std::string& key) const override {
    return key.empty() ? Name() : fmt::format("{}/{}", Name(), EncodePath(key));
  }

 private:
  std::string Name() const {
    const std::string& at = revision_.commit.empty() ? options_.revision : revision_.commit;
    return fmt::format("hf://{}@{}", options_.repository, at);
  }
  absl::Status ReadOnly() const {
    return Error(StatusCode::kUnimplemented, "READ_ONLY_STORE",
                 fmt::format("{}: a hub takes nothing; write to file:// or s3://", Name()));
  }

  absl::StatusOr<HttpAnswer> Get(const std::string& what, std::string url, Pairs headers,
                                 std::size_t max_bytes, const std::string& etag) const;
  Attempt GetOnce(const std::string& what, std::string url, const Pairs& headers,
                  std::size_t max_bytes, const std::string& etag, HttpAnswer& answer) const;
  absl::Status CheckContent(const std::string& what, const HttpAnswer& answer,
                            const std::string& etag) const;
  Attempt Failure(const std::string& what, std::string_view url, const HttpAnswer& answer) const;
  absl::Status Refused(const std::string& what, const HttpAnswer& answer) const;

  const HubStoreOptions options_;
  HubRevision revision_;
};

absl::Status HubStore::ReadRevision() {
  const std::string url =
      fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint,
                  EncodePath(options_.repository), EncodeQuery(options_.revision));
  TEQ_ASSIGN_OR_RETURN(const HttpAnswer answer, Get(Name(), url, {}, kMaxListBytes, ""));
  auto revision = ParseHubRevision(answer.body);
  if (!revision.ok()) return WithContext(revision.status(), Name());
  revision_ = *std::move(revision);
  return absl::OkStatus();
}

absl::StatusOr<ObjectInfo> HubStore::Head(const std::string& key) const {
  const auto found = revision_.files.find(key);
  if (found != revision_.files.end()) return found->second;
  return Error(StatusCode::kNotFound, "OBJECT_NOT_FOUND",
               fmt::format("{}: the model has no such file", Uri(key)));
}

absl::StatusOr<std::vector<ObjectInfo>> HubStore::List(const std::string& prefix) const {
  std::vector<ObjectInfo> objects;
  for (const auto& [key, object] : revision_.files) {
    if (key.starts_with(prefix)) objects.push_back(object);
  }
  return objects;
}

absl::StatusOr<std::string> HubStore::Read(const std::string& key, std::uint64_t offset,
                                           std::uint64_t length, const std::string& etag) const {
  TEQ_ASSIGN_OR_RETURN(const ObjectInfo object, Head(key));
  if (!etag.empty() && etag != object.etag) {
    return Error(StatusCode::kFailedPrecondition, "OBJECT_CHANGED",
                 fmt::format("{}: is another file by now; start again with it", Uri(key)));
  }
  if (offset > object.bytes || length > object.bytes - offset) {
    return Error(StatusCode::kOutOfRange, "RANGE_BEYOND_END",
                 fmt::format("{}: has {} bytes, fewer than asked for", Uri(key), object.bytes));
  }
  if (length == 0) return std::string();
  const std::string url =
      fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, EncodePath(options_.repository),
                  revision_.commit, EncodePath(key));
  Pairs headers = {{"Accept-Encoding", "identity"},
                   {"Range", fmt::format("bytes={}-{}", offset, offset + length - 1)}};
  TEQ_ASSIGN_OR_RETURN(HttpAnswer answer,
                       Get(Uri(key), url, std::move(headers), length, object.etag));
  const std::string range =
      fmt::format("bytes {}-{}/{}", offset, offset + length - 1, object.bytes);
  const bool is_whole = answer.status == 200 && length == object.bytes;
  if ((!is_whole && (answer.status != 206 || answer.Header("content-range") != range)) ||
      answer.body.size() != length) {
    return Error(
        StatusCode::kDataLoss, "OBJECT_CORRUPT",
        fmt::format("{}: {} were asked for; HTTP {} with {} bytes came, \"{}\"", Uri(key), range,
                    answer.status, answer.body.size(), answer.Header("content-range")));
  }
  return std::move(answer.body);
}

absl::Status HubStore::Download(const ObjectInfo& object, const std::filesystem::path& file,
                                const TransferProgress& progress) const {
  return DownloadByParts(
      object, file, progress,
      [&](const Part& part, const RangeSink& sink, const std::function<bool()>& /*go_on*/) {
        TEQ_ASSIGN_OR_RETURN(const std::string bytes,
                             Read(object.key, part.offset, part.length, object.etag));
        return sink(part.offset, bytes)
                   ? absl::OkStatus()
                   : Error(StatusCode::kCancelled, "CANCELLED",
                           fmt::format("{}: the download was stopped", Uri(object.key)));
      });
}

// An answer whose status is 200 or 206, through redirects and after as many tries as that takes.
absl::StatusOr<HttpAnswer> HubStore::Get(const std::string& what, std::string url, Pairs headers,
                                         std::size_t max_bytes, const std::string& etag) const {
  HttpAnswer answer;
  TEQ_RETURN_IF_ERROR(Retry(options_.retry, options_.world, [&](int) {
    return GetOnce(what, url, headers, max_bytes, etag, answer);
  }));
  return answer;
}

Attempt HubStore::GetOnce(const std::string& what, std::string url, const Pairs& headers,
                          std::size_t max_bytes, const std::string& etag,
                          HttpAnswer& answer) const {
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    HttpRequest request{
        .url = url, .headers = headers, .max_body_bytes = std::max(max_bytes, kMaxPageBytes)};
    const bool is_hub = OriginOf(url) == OriginOf(options_.endpoint);
    if (is_hub && !options_.token.empty()) {
      request.headers.emplace_back("Authorization", "Bearer " + options_.token);
    }
    absl::StatusOr<HttpAnswer> sent = options_.transport->Send(request);
    if (!sent.ok() && absl::IsUnavailable(sent.status())) {
      return {.status = Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                              fmt::format("{}: {}; check the network", what,
                                          std::string(sent.status().message()))),
              .again = true};
    }
    if (!sent.ok()) return {.status = WithContext(sent.status(), what)};
    answer = *std::move(sent);
    if (is_hub) {
      const absl::Status content = CheckContent(what, answer, etag);
      if (!content.ok()) return {.status = content};
    }
    if (answer.status == 200 || answer.status == 206) return {};
    if (!IsRedirect(answer.status)) return Failure(what, url, answer);
    const auto target = RedirectTarget(url, answer.Header("location"));
    if (!target.ok()) return {.status = WithContext(target.status(), what)};
    url = *target;
  }
  return {.status = Error(StatusCode::kInternal, "BAD_ANSWER",
                          fmt::format("{}: more than {} redirects", what, kMaxRedirects))};
}

// What the hub itself says of the file that it leads to.
absl::Status HubStore::CheckContent(const std::string& what, const HttpAnswer& answer,
                                    const std::string& etag) const {
  const std::string commit = answer.Header("x-repo-commit");
  const std::string linked = Unquoted(answer.Header("x-linked-etag"));
  const bool same_commit = commit.empty() || revision_.commit.empty() || commit == revision_.commit;
  if (same_commit && (linked.empty() || etag.empty() || linked == etag)) return absl::OkStatus();
  return Error(StatusCode::kFailedPrecondition, "OBJECT_CHANGED",
               fmt::format("{}: the hub gives the file of commit {} with the etag {}; start again",
                           what, commit, linked));
}

absl::Status HubStore::Refused(const std::string& what, const HttpAnswer& answer) const {
  if (answer.Header("x-error-code") == "GatedRepo") {
    return Error(
        StatusCode::kPermissionDenied, "MODEL_GATED",
        fmt::format("{}: is gated; accept its licence on its page at {}/{}, as the user of "
                    "the token in {}",
                    what, options_.endpoint, options_.repository, options_.token_place));
  }
  if (answer.status == 401 && !options_.token.empty()) {
    return Error(StatusCode::kPermissionDenied, "HUB_TOKEN_REFUSED",
                 fmt::format("{}: the hub does not know the token in {} (HTTP 401); make a new one",
                             what, options_.token_place));
  }
  return Error(
      StatusCode::kPermissionDenied, "OBJECT_ACCESS_DENIED",
      options_.token.empty()
          ? fmt::format("{}: does not exist, or is private (HTTP {}); put a token that may "
                        "read it into {}",
                        what, answer.status, options_.token_place)
          : fmt::format("{}: the token in {} may not read it (HTTP {})", what, options_.token_place,
                        answer.status));
}

// What the hub asks for by Retry-After; else until its window of requests ends, which it tells as
// in RateLimit: "resolvers";r=0;t=120.
std::optional<absl::Duration> WaitOf(const HttpAnswer& answer, absl::Time now) {
  if (const auto wait = ParseRetryAfter(answer.Header("retry-after"), now)) return wait;
  const std::string limit = answer.Header("ratelimit");
  const std::size_t window = limit.find(";t=");
  if (window == std::string::npos) return std::nullopt;
  return ParseRetryAfter(limit.substr(window + 3), now);
}

Attempt HubStore::Failure(const std::string& what, std::string_view url,
                          const HttpAnswer& answer) const {
  const int status = answer.status;
  const bool is_hub = OriginOf(url) == OriginOf(options_.endpoint);
  if (status == 408 || status == 429 || (status >= 500 && status != 501)) {
    return {.status = Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                            status == 429
                                ? fmt::format("{}: the hub takes no more requests for now (HTTP "
                                              "429); try later, or with a token in {}",
                                              what, options_.token_place)
                                : fmt::format("{}: {} answers HTTP {}; try again later", what,
                                              PlaceOf(url), status)),
            .again = true,
            .wait = WaitOf(answer, options_.world.now())};
  }
  // Where the hub leads to holds for minutes only; the next try asks the hub again.
  if (!is_hub) {
    return {.status = Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                            fmt::format("{}: {}, where the hub keeps it, answers HTTP {}", what,
                                        PlaceOf(url), status)),
            .again = true};
  }
  if (status == 401 || status == 403) return {.status = Refused(what, answer)};
  const std::string code = answer.Header("x-error-code");
  if (status == 404 && code == "RevisionNotFound") {
    return {.status = Error(StatusCode::kNotFound, "REVISION_NOT_FOUND",
                            fmt::format("{}: the model has no branch, tag or commit \"{}\"", what,
                                        options_.revision))};
  }
  if (status == 404 && code == "EntryNotFound") {
    return {.status = Error(StatusCode::kNotFound, "OBJECT_NOT_FOUND",
                            fmt::format("{}: the model has no such file", what))};
  }
  if (status == 404) {
    return {.status =
                Error(StatusCode::kNotFound, "MODEL_NOT_FOUND",
                      fmt::format("{}: {} has no such model, or hides it from the token in {}",
                                  what, options_.endpoint, options_.token_place))};
  }
  return {.status = Error(StatusCode::kInternal, "OBJECT_STORE_ERROR",
                          fmt::format("{}: the hub answers HTTP {}", what, status))};
}

absl::Status NoCredentials(const std::string& place, std::string_view what) {
  return Error(StatusCode::kFailedPrecondition, "NO_CREDENTIALS",
               fmt::format("{}: {}", place, what));
}

absl::Status ReadToken(const Environment& environment, HubStoreOptions& options) {
  options.token = Trimmed(environment("HF_TOKEN"));
  options.token_place = "HF_TOKEN";
  if (options.token.empty()) {
    const std::string named = environment("HF_TOKEN_PATH");
    const std::string file =
        named.empty() ? environment("HOME") + "/.cache/huggingface/token" : named;
    options.token_place = fmt::format("HF_TOKEN or the file {}", file);
    const auto content = ReadFile(file);
    if (content.ok()) {
      options.token = Trimmed(*content);
      options.token_place = file;
    } else if (!named.empty()) {
      return NoCredentials("HF_TOKEN_PATH", std::string(content.status().message()));
    }
  }
  const bool is_plain =
      std::ranges::all_of(options.token, [](char c) { return c > ' ' && c < 127; });
  if (!is_plain) return NoCredentials(options.token_place, "holds no token: one word of letters");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HubStoreOptions> HubOptionsOf(const Location& location,
                                             const Environment& environment,
                                             std::shared_ptr<HttpTransport> transport) {
  HubStoreOptions options{.endpoint = environment("HF_ENDPOINT"),
                          .repository = location.authority,
                          .revision = location.revision,
                          .transport = std::move(transport)};
  if (options.endpoint.empty()) options.endpoint = kDefaultEndpoint;
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  const std::size_t scheme = options.endpoint.find("://");
  const std::string_view kind = std::string_view(options.endpoint).substr(0, scheme);
  if ((kind != "https" && kind != "http") || options.endpoint.size() <= scheme + 3 ||
      options.endpoint.find_first_of("?#@ ") != std::string::npos) {
    // A user and a password would be shown by the message.
    const bool is_secret = options.endpoint.find('@') != std::string::npos;
    return Error(StatusCode::kInvalidArgument, "INVALID_ENDPOINT",
                 fmt::format("HF_ENDPOINT is \"{}\"; write https://host",
                             is_secret ? "...@..." : options.endpoint));
  }
  TEQ_RETURN_IF_ERROR(ReadToken(environment, options));
  if (!options.token.empty() && !IsTrustedForKeys(options.endpoint)) {
    return Error(
        StatusCode::kInvalidArgument, "INVALID_ENDPOINT",
        fmt::format("HF_ENDPOINT is \"{}\", and the token in {} would go there unencrypted; "
                    "write https://",
                    options.endpoint, options.token_place));
  }
  return options;
}

absl::StatusOr<std::shared_ptr<ObjectStore>> OpenHubStore(HubStoreOptions options) {
  auto store = std::make_shared<HubStore>(std::move(options));
  TEQ_RETURN_IF_ERROR(store->ReadRevision());
  return store;
}

}  // namespace teq::objects
