#include "client/objects/s3_errors.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

using absl::StatusCode;

// A server's words as a message may show them.
std::string Shown(std::string_view text) {
  constexpr std::size_t kMax = 200;
  std::string shown(text.substr(0, kMax));
  std::ranges::replace_if(
      shown, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return shown;
}

bool IsOneOf(std::string_view code, std::initializer_list<std::string_view> codes) {
  return std::ranges::find(codes, code) != codes.end();
}

absl::Status Denied(const S3Context& context, std::string_view problem) {
  return Error(StatusCode::kPermissionDenied, "OBJECT_ACCESS_DENIED",
               fmt::format("{}: {}", context.uri, problem), {{"uri", context.uri}});
}

std::string Minutes(absl::Duration duration) {
  return fmt::format("{} minutes",
                     absl::ToInt64Minutes(absl::AbsDuration(duration) + absl::Seconds(30)));
}

absl::Status ClockIsOff(const S3Context& context, const HttpAnswer& answer) {
  absl::Time theirs;
  std::string off = "too much";
  if (absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", answer.Header("date"), &theirs, nullptr)) {
    off = Minutes(context.now - theirs);
  }
  return Denied(context,
                fmt::format("this machine's clock and the store's differ by {}, and "
                            "signatures hold for 15 minutes; set the clock of this machine, "
                            "for example by NTP",
                            off));
}

// Refusals, each with its remedy; OK where `error` is none.
absl::Status Refusal(const S3Context& context, const HttpAnswer& answer, const S3Error& error) {
  if (error.code == "RequestTimeTooSkewed") return ClockIsOff(context, answer);
  if (error.code == "InvalidAccessKeyId") {
    return Denied(context,
                  fmt::format("{} does not know the access key; check AWS_ACCESS_KEY_ID or "
                              "the profile, and that they are keys of this store",
                              context.endpoint));
  }
  if (error.code == "SignatureDoesNotMatch") {
    return Denied(context,
                  "the secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY "
                  "or the profile");
  }
  if (IsExpiredToken(error) || error.code == "InvalidToken") {
    return Denied(context,
                  "the session token is no longer good; renew AWS_SESSION_TOKEN and its "
                  "keys");
  }
  if (error.code == "AllAccessDisabled" || error.code == "AccessDenied" || answer.status == 401 ||
      answer.status == 403) {
    return Denied(context,
                  fmt::format("the keys may not do this (HTTP {}{}{}); give them the right "
                              "to read, list and write there, or check the name",
                              answer.status, error.code.empty() ? "" : " ", Shown(error.code)));
  }
  return absl::OkStatus();
}

absl::Status NotFound(const S3Context& context, const S3Error& error) {
  if (error.code == "NoSuchBucket") {
    return Error(StatusCode::kNotFound, "BUCKET_NOT_FOUND",
                 fmt::format("{}: {} has no bucket \"{}\"; check its name and "
                             "AWS_ENDPOINT_URL_S3, or make it",
                             context.uri, context.endpoint, context.bucket),
                 {{"bucket", context.bucket}});
  }
  return Error(StatusCode::kNotFound, "OBJECT_NOT_FOUND",
               fmt::format("{}: there is no such object", context.uri), {{"uri", context.uri}});
}

// Another region's bucket; OK where the answer says nothing of it.
absl::Status WrongRegion(const S3Context& context, const HttpAnswer& answer, const S3Error& error) {
  std::string region = error.region.empty() ? answer.Header("x-amz-bucket-region") : error.region;
  const bool is_about_region = answer.status == 301 || answer.status == 307 ||
                               error.code == "AuthorizationHeaderMalformed" ||
                               error.code == "IllegalLocationConstraintException";
  if (!is_about_region) return absl::OkStatus();
  if (region.empty()) region = "another region";
  return Error(StatusCode::kFailedPrecondition, "WRONG_REGION",
               fmt::format("{}: the bucket lies in {}, and the request was for {}; set AWS_REGION, "
                           "or AWS_ENDPOINT_URL_S3 where the store is not AWS",
                           context.uri, Shown(region), context.region));
}

absl::Status Unavailable(const S3Context& context, std::string_view problem) {
  return Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
               fmt::format("{}: {} {}; try again later", context.uri, context.endpoint, problem));
}

bool IsPassing(int status, std::string_view code) {
  return IsOneOf(code, {"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout",
                        "Throttling", "ThrottlingException", "RequestLimitExceeded",
                        "BandwidthLimitExceeded", "OperationAborted", "TooManyRequests"}) ||
         status == 408 || status == 429 || (status >= 500 && status != 501);
}

}  // namespace

bool IsExpiredToken(const S3Error& error) {
  return IsOneOf(error.code, {"ExpiredToken", "TokenRefreshRequired"});
}

Attempt S3Failure(const S3Context& context, const HttpAnswer& answer) {
  const S3Error error = ParseError(answer.body);
  if (IsPassing(answer.status, error.code)) {
    return {.status = Unavailable(
                context, fmt::format("answers HTTP {} {}", answer.status, Shown(error.code))),
            .again = true,
            .wait = ParseRetryAfter(answer.Header("retry-after"), context.now)};
  }
  if (IsOneOf(error.code,
              {"BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest", "IncompleteBody"})) {
    return {.status = Error(StatusCode::kDataLoss, "OBJECT_CORRUPT",
                            fmt::format("{}: the bytes arrived at the store as others ({})",
                                        context.uri, Shown(error.code))),
            .again = true};
  }
  if (answer.status == 412) {
    return {.status = Error(
                StatusCode::kFailedPrecondition, "OBJECT_CHANGED",
                fmt::format("{}: is another object by now; start again with it", context.uri))};
  }
  if (error.code == "ConditionalRequestConflict") {
    return {
        .status = Error(StatusCode::kAlreadyExists, "OBJECT_EXISTS",
                        fmt::format("{}: somebody else writes it at the same time", context.uri)),
        .again = true};
  }
  if (answer.status == 416) {
    return {.status = Error(StatusCode::kOutOfRange, "RANGE_BEYOND_END",
                            fmt::format("{}: has fewer bytes than asked for", context.uri))};
  }
  if (absl::Status region = WrongRegion(context, answer, error); !region.ok()) {
    return {.status = std::move(region)};
  }
  if (answer.status == 404 || error.code == "NoSuchBucket" || error.code == "NoSuchKey") {
    return {.status = NotFound(context, error)};
  }
  if (absl::Status refusal = Refusal(context, answer, error); !refusal.ok()) {
    return {.status = std::move(refusal)};
  }
  return {.status =
              Error(StatusCode::kInternal, "OBJECT_STORE_ERROR",
                    fmt::format("{}: {} answers HTTP {} {}: {}", context.uri, context.endpoint,
                                answer.status, Shown(error.code), Shown(error.message)))};
}

Attempt TransportFailure(const S3Context& context, const absl::Status& status) {
  if (absl::IsUnavailable(status) &&
      IsOneOf(ErrorReason(status), {"HTTP_FAILED", "HTTP_NO_CONNECTION"})) {
    return {.status = Error(StatusCode::kUnavailable, "OBJECT_STORE_UNAVAILABLE",
                            fmt::format("{}: {}; check the network and AWS_ENDPOINT_URL_S3",
                                        context.uri, std::string(status.message()))),
            .again = true};
  }
  return {.status = WithContext(status, context.uri), .again = absl::IsUnavailable(status)};
}

}  // namespace teq::objects
