#include "client/objects/s3_client.h"

#include <algorithm>
#include <utility>

#include "client/objects/file.h"
#include "client/objects/s3_errors.h"
#include "client/objects/sigv4.h"
#include "client/objects/stoppable.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

constexpr std::size_t kMaxAnswerBytes = std::size_t{8} << 20;  // a page of 1,000 long keys

}  // namespace

Attempt S3Client::Try(const S3Call& call, HttpAnswer& answer) const {
  S3Context context{.uri = call.uri,
                    .bucket = options_.bucket,
                    .endpoint = options_.endpoint.origin,
                    .region = options_.endpoint.region,
                    .now = options_.world.now()};
  const absl::StatusOr<Credentials> keys = options_.credentials->Get();
  if (!keys.ok()) return TransportFailure(context, keys.status());
  SignedParts parts{.method = call.method,
                    .path = EncodePath(options_.endpoint.base_path + call.key),
                    .query = call.query,
                    .headers = call.headers,
                    .payload_sha256 = call.body_sha256.empty()
                                          ? Sha256(call.body.value_or(std::string_view()))
                                          : call.body_sha256};
  parts.headers.emplace_back("x-amz-content-sha256", parts.payload_sha256);
  parts.headers.emplace_back("x-amz-date", DateHeader(context.now));
  if (!keys->session_token.empty()) {
    parts.headers.emplace_back("x-amz-security-token", keys->session_token);
  }
  HttpRequest request{.method = call.method,
                      .url = options_.endpoint.origin + parts.path,
                      .headers = parts.headers,
                      .body = call.body,
                      .sink = call.sink,
                      .go_on = call.go_on,
                      .max_body_bytes = kMaxAnswerBytes,
                      .fresh_connection = call.once};
  if (!call.query.empty()) request.url += "?" + CanonicalQuery(call.query);
  parts.headers.emplace_back("host", options_.endpoint.host);
  request.headers.emplace_back(
      "Authorization", Authorization(parts, *keys, {options_.endpoint.region, "s3"}, context.now));
  absl::StatusOr<HttpAnswer> sent = options_.transport->Send(request);
  if (!sent.ok()) return TransportFailure(context, sent.status());
  answer = *std::move(sent);
  const bool is_success = answer.status >= 200 && answer.status < 300;
  const S3Error error = is_success && answer.body.empty() ? S3Error() : ParseError(answer.body);
  if (is_success && error.code.empty()) return {};
  Attempt attempt = S3Failure(context, answer);
  if (IsExpiredToken(error)) {
    options_.credentials->Forget();
    const absl::StatusOr<Credentials> renewed = options_.credentials->Get();
    attempt.again = renewed.ok() && renewed->session_token != keys->session_token;
  }
  return attempt;
}

absl::StatusOr<HttpAnswer> S3Client::Perform(const S3Call& call) const {
  HttpAnswer answer;
  TEQ_RETURN_IF_ERROR(Run([&](int) { return Try(call, answer); }, call.go_on));
  return answer;
}

absl::Status S3Client::Run(const std::function<Attempt(int attempt)>& attempt,
                           const std::function<bool()>& go_on) const {
  // A pause is not waited for by who has stopped.
  const RetryWorld world = go_on ? Stoppable(options_.world, go_on) : options_.world;
  return Retry(options_.retry, world, [&](int number) {
    Attempt outcome = attempt(number);
    outcome.again = outcome.again && (!go_on || go_on());
    return outcome;
  });
}

absl::StatusOr<SignedUrl> S3Client::Presign(const std::string& key, absl::Duration ttl) const {
  TEQ_ASSIGN_OR_RETURN(const Credentials keys, options_.credentials->Get());
  const SignedParts parts{.method = "GET",
                          .path = EncodePath(options_.endpoint.base_path + key),
                          .headers = {{"host", options_.endpoint.host}}};
  const absl::Time now = options_.world.now();
  return SignedUrl{.url = options_.endpoint.origin + parts.path + "?" +
                          PresignedQuery(parts, keys, {options_.endpoint.region, "s3"}, now, ttl),
                   .expiry = std::min(now + ttl, keys.expiry)};
}

}  // namespace teq::objects
