#include "client/objects/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <mutex>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

constexpr std::size_t kMaxHeaderBytes = std::size_t{64} << 10;
constexpr long kReceiveBuffer = 512L << 10;
constexpr long kSendBuffer = 1L << 20;

using Handle = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;
using HeaderList = std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)>;

// One request on its way: what curl's callbacks see.
struct Exchange {
  const HttpRequest& request;
  CURL* handle;
  HttpAnswer answer;
  std::size_t header_bytes = 0;
  std::size_t sent = 0;
  bool cancelled = false;
  bool too_large = false;
  bool was_sent = false;

  [[nodiscard]] bool IsForSink() const {
    return request.sink && (answer.status == 200 || answer.status == 206);
  }
  void ReadStatus() {
    long status = 0;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status);
    answer.status = static_cast<int>(status);
  }
  // The time is 0 as long as there is no connection to send on.
  void ReadWasSent() {
    curl_off_t before_sending = 0;
    curl_easy_getinfo(handle, CURLINFO_PRETRANSFER_TIME_T, &before_sending);
    was_sent = before_sending > 0;
  }
};

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::ranges::transform(lower, lower.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

std::size_t OnHeader(char* data, std::size_t size, std::size_t count, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  const std::string_view line(data, size * count);
  exchange.header_bytes += line.size();
  if (exchange.header_bytes > kMaxHeaderBytes) {
    exchange.too_large = true;
    return 0;
  }
  if (line.starts_with("HTTP/")) {  // the headers of a redirect before are none of the answer's
    exchange.answer.headers.clear();
    return line.size();
  }
  const std::size_t colon = line.find(':');
  if (colon != std::string_view::npos) {
    exchange.answer.headers[Lower(Trimmed(line.substr(0, colon)))] =
        Trimmed(line.substr(colon + 1));
  }
  return line.size();
}

std::size_t OnBody(char* data, std::size_t size, std::size_t count, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  const std::string_view part(data, size * count);
  exchange.ReadStatus();
  if (exchange.IsForSink()) {
    if (exchange.request.sink(exchange.answer, part)) return part.size();
    exchange.cancelled = true;
    return 0;
  }
  if (exchange.answer.body.size() + part.size() > exchange.request.max_body_bytes) {
    exchange.too_large = true;
    return 0;
  }
  exchange.answer.body += part;
  return part.size();
}

std::size_t OnSend(char* data, std::size_t size, std::size_t count, void* context) {
  auto& exchange = *static_cast<Exchange*>(context);
  const std::string_view rest = exchange.request.body.value_or("").substr(exchange.sent);
  const std::size_t part = std::min(rest.size(), size * count);
  std::memcpy(data, rest.data(), part);
  exchange.sent += part;
  return part;
}

// curl sends a body again where a kept connection turns out to be dead.
int OnSeek(void* context, curl_off_t offset, int origin) {
  auto& exchange = *static_cast<Exchange*>(context);
  if (origin != SEEK_SET) return CURL_SEEKFUNC_CANTSEEK;
  exchange.sent = static_cast<std::size_t>(offset);
  return CURL_SEEKFUNC_OK;
}

int OnProgress(void* context, curl_off_t /*down_total*/, curl_off_t /*down*/,
               curl_off_t /*up_total*/, curl_off_t /*up*/) {
  auto& exchange = *static_cast<Exchange*>(context);
  if (!exchange.request.go_on || exchange.request.go_on()) return 0;
  exchange.cancelled = true;
  return 1;
}

bool IsTlsError(CURLcode code) {
  return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE ||
         code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_ISSUER_ERROR;
}

absl::Status ErrorOf(CURLcode code, const Exchange& exchange, std::string_view words) {
  const std::string place = PlaceOf(exchange.request.url);
  if (exchange.cancelled) {
    return Error(absl::StatusCode::kCancelled, "CANCELLED",
                 fmt::format("{}: the transfer was stopped", place));
  }
  if (exchange.too_large) {
    return Error(
        absl::StatusCode::kResourceExhausted, "HTTP_ANSWER_TOO_LARGE",
        fmt::format("{}: answers with more than {} bytes where fewer are expected; check "
                    "that it is the server that you mean",
                    place,
                    exchange.header_bytes > kMaxHeaderBytes ? kMaxHeaderBytes
                                                            : exchange.request.max_body_bytes));
  }
  if (IsTlsError(code)) {
    return Error(absl::StatusCode::kFailedPrecondition, "TLS_FAILED",
                 fmt::format("{}: its certificate is not trusted: {}; name the file of its "
                             "authority's certificate in AWS_CA_BUNDLE or SSL_CERT_FILE",
                             place, words));
  }
  if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL) {
    return Error(absl::StatusCode::kInvalidArgument, "HTTP_BAD_URL",
                 fmt::format("{}: {}", place, words));
  }
  return Error(absl::StatusCode::kUnavailable,
               exchange.was_sent ? "HTTP_FAILED" : "HTTP_NO_CONNECTION",
               fmt::format("{}: {}", place, words));
}

class CurlTransport : public HttpTransport {
 public:
  explicit CurlTransport(CurlOptions options) : options_(std::move(options)) {
    static const CURLcode kReady = curl_global_init(CURL_GLOBAL_DEFAULT);  // once per process
    ready_ = kReady == CURLE_OK;
  }

  absl::StatusOr<HttpAnswer> Send(const HttpRequest& request) override {
    Handle handle = Take();
    if (!ready_ || handle == nullptr) {
      return Error(absl::StatusCode::kInternal, "HTTP_FAILED", "libcurl cannot be started");
    }
    Exchange exchange{.request = request, .handle = handle.get()};
    char words[CURL_ERROR_SIZE] = "";
    const HeaderList headers = Prepare(handle.get(), request, exchange, words);
    const CURLcode code = curl_easy_perform(handle.get());
    exchange.ReadStatus();
    exchange.ReadWasSent();
    curl_easy_reset(handle.get());  // keeps connections
    Return(std::move(handle));
    if (code != CURLE_OK) {
      return ErrorOf(code, exchange, *words != '\0' ? words : curl_easy_strerror(code));
    }
    return std::move(exchange.answer);
  }

 private:
  Handle Take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return {curl_easy_init(), &curl_easy_cleanup};
    Handle handle = std::move(idle_.back());
    idle_.pop_back();
    return handle;
  }

  void Return(Handle handle) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(handle));
  }

  // Sets all options; the list of headers has to live as long as the request.
  HeaderList Prepare(CURL* handle, const HttpRequest& request, Exchange& exchange,
                     char* words) const {
    curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(handle, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(handle, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(handle, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
    curl_easy_setopt(handle, CURLOPT_BUFFERSIZE, kReceiveBuffer);
    curl_easy_setopt(handle, CURLOPT_UPLOAD_BUFFERSIZE, kSendBuffer);
    if (request.fresh_connection) curl_easy_setopt(handle, CURLOPT_FRESH_CONNECT, 1L);
    if (!options_.use_proxy) curl_easy_setopt(handle, CURLOPT_NOPROXY, "*");
    if (!options_.ca_file.empty()) {
      curl_easy_setopt(handle, CURLOPT_CAINFO, options_.ca_file.c_str());
    }
    SetTimes(handle, request);
    if (request.max_redirects > 0) {
      curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 1L);
      curl_easy_setopt(handle, CURLOPT_MAXREDIRS, static_cast<long>(request.max_redirects));
      curl_easy_setopt(handle, CURLOPT_REDIR_PROTOCOLS_STR,
                       request.url.starts_with("https:") ? "https" : "http,https");
    }
    SetBody(handle, request, exchange);
    curl_easy_setopt(handle, CURLOPT_HEADERFUNCTION, OnHeader);
    curl_easy_setopt(handle, CURLOPT_HEADERDATA, &exchange);
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, OnBody);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, &exchange);
    curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, OnProgress);
    curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &exchange);
    HeaderList headers = HeadersOf(request);
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers.get());
    return headers;
  }

  void SetTimes(CURL* handle, const HttpRequest& request) const {
    curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(absl::ToInt64Milliseconds(request.connect_timeout)));
    if (request.total_timeout != absl::InfiniteDuration()) {
      curl_easy_setopt(handle, CURLOPT_TIMEOUT_MS,
                       static_cast<long>(absl::ToInt64Milliseconds(request.total_timeout)));
    }
    curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME,
                     std::max(1L, static_cast<long>(absl::ToInt64Seconds(options_.stall_timeout))));
  }

  static void SetBody(CURL* handle, const HttpRequest& request, Exchange& exchange) {
    if (request.method == "HEAD") {
      curl_easy_setopt(handle, CURLOPT_NOBODY, 1L);
    } else if (request.body) {
      curl_easy_setopt(handle, CURLOPT_UPLOAD, 1L);
      curl_easy_setopt(handle, CURLOPT_INFILESIZE_LARGE,
                       static_cast<curl_off_t>(request.body->size()));
      curl_easy_setopt(handle, CURLOPT_READFUNCTION, OnSend);
      curl_easy_setopt(handle, CURLOPT_READDATA, &exchange);
      curl_easy_setopt(handle, CURLOPT_SEEKFUNCTION, OnSeek);
      curl_easy_setopt(handle, CURLOPT_SEEKDATA, &exchange);
    }
    curl_easy_setopt(handle, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }

  static HeaderList HeadersOf(const HttpRequest& request) {
    curl_slist* list = nullptr;
    for (const auto& [name, value] : request.headers) {
      list = curl_slist_append(
          list, value.empty() ? (name + ";").c_str() : fmt::format("{}: {}", name, value).c_str());
    }
    list = curl_slist_append(list, "Expect:");
    list = curl_slist_append(list, fmt::format("User-Agent: teqd/{}", TEQ_VERSION).c_str());
    return {list, &curl_slist_free_all};
  }

  CurlOptions options_;
  bool ready_ = false;
  std::mutex mutex_;
  std::vector<Handle> idle_;
};

}  // namespace

std::string HttpAnswer::Header(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? std::string() : found->second;
}

bool HttpAnswer::IsRangeFrom(std::uint64_t first) const {
  return status == 206 && Header("content-range").starts_with(fmt::format("bytes {}-", first));
}

std::string Trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

std::string_view OriginOf(std::string_view url) {
  const std::size_t scheme = url.find("://");
  if (scheme == std::string_view::npos) return {};
  return url.substr(0, url.find_first_of("/?#", scheme + 3));
}

std::string PlaceOf(std::string_view url) {
  std::string place(OriginOf(url));
  if (place.empty()) return "the server";
  if (const std::size_t at = place.rfind('@'); at != std::string::npos) {
    const std::size_t begin = place.find("://") + 3;
    place.erase(begin, at + 1 - begin);
  }
  return place;
}

std::shared_ptr<HttpTransport> MakeCurlTransport(CurlOptions options) {
  return std::make_shared<CurlTransport>(std::move(options));
}

}  // namespace teq::objects
