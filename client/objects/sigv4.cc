#include "client/objects/sigv4.h"

#include <algorithm>
#include <map>

#include "client/objects/digest.h"
#include "fmt/format.h"

namespace teq::objects {
namespace {

constexpr std::string_view kAlgorithm = "AWS4-HMAC-SHA256";

std::string Encode(std::string_view text, std::string_view plain) {
  std::string encoded;
  for (const char c : text) {
    const bool alphanumeric =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (alphanumeric || plain.find(c) != std::string_view::npos) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

std::string Lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return text;
}

// Without space at its ends, and with one space for each run of them inside.
std::string SingleSpaced(std::string_view value) {
  std::string trimmed;
  for (const char c : value) {
    const bool space = c == ' ' || c == '\t';
    if (!space) {
      trimmed += c;
    } else if (!trimmed.empty() && trimmed.back() != ' ') {
      trimmed += ' ';
    }
  }
  if (trimmed.ends_with(' ')) trimmed.pop_back();
  return trimmed;
}

// By lower-case name; values of one name in the order given.
std::map<std::string, std::string> CanonicalHeaders(const Pairs& headers) {
  std::map<std::string, std::string> canonical;
  for (const auto& [name, value] : headers) {
    const auto [entry, is_new] = canonical.try_emplace(Lower(name), SingleSpaced(value));
    if (!is_new) entry->second += "," + SingleSpaced(value);
  }
  return canonical;
}

std::string SignedHeaders(const Pairs& headers) {
  std::string names;
  for (const auto& [name, value] : CanonicalHeaders(headers)) {
    names += (names.empty() ? "" : ";") + name;
  }
  return names;
}

std::string Day(absl::Time time) { return absl::FormatTime("%Y%m%d", time, absl::UTCTimeZone()); }

std::string ScopeText(const SigningScope& scope, absl::Time now) {
  return fmt::format("{}/{}/{}/aws4_request", Day(now), scope.region, scope.service);
}

std::string Sha256Hex(std::string_view text) {
  Sha256Digest digest;
  digest.Add(text);
  return digest.Hex();
}

// Tasks 2 and 3.
std::string Signature(const SignedParts& parts, const Credentials& credentials,
                      const SigningScope& scope, absl::Time now) {
  const std::string text = fmt::format("{}\n{}\n{}\n{}", kAlgorithm, DateHeader(now),
                                       ScopeText(scope, now), Sha256Hex(CanonicalRequest(parts)));
  std::string key = HmacSha256("AWS4" + credentials.secret_access_key, Day(now));
  key = HmacSha256(key, scope.region);
  key = HmacSha256(key, scope.service);
  key = HmacSha256(key, "aws4_request");
  return Hex(HmacSha256(key, text));
}

}  // namespace

std::string EncodeQuery(std::string_view text) { return Encode(text, "-._~"); }

std::string EncodePath(std::string_view text) { return Encode(text, "-._~/"); }

std::string CanonicalQuery(const Pairs& query) {
  Pairs encoded;
  for (const auto& [name, value] : query) {
    encoded.emplace_back(EncodeQuery(name), EncodeQuery(value));
  }
  std::ranges::sort(encoded);
  std::string text;
  for (const auto& [name, value] : encoded) {
    text += fmt::format("{}{}={}", text.empty() ? "" : "&", name, value);
  }
  return text;
}

std::string CanonicalRequest(const SignedParts& parts) {
  std::string headers;
  for (const auto& [name, value] : CanonicalHeaders(parts.headers)) {
    headers += fmt::format("{}:{}\n", name, value);
  }
  return fmt::format("{}\n{}\n{}\n{}\n{}\n{}", parts.method, parts.path,
                     CanonicalQuery(parts.query), headers, SignedHeaders(parts.headers),
                     parts.payload_sha256);
}

std::string Authorization(const SignedParts& parts, const Credentials& credentials,
                          const SigningScope& scope, absl::Time now) {
  return fmt::format("{} Credential={}/{},SignedHeaders={},Signature={}", kAlgorithm,
                     credentials.access_key_id, ScopeText(scope, now), SignedHeaders(parts.headers),
                     Signature(parts, credentials, scope, now));
}

std::string PresignedQuery(SignedParts parts, const Credentials& credentials,
                           const SigningScope& scope, absl::Time now, absl::Duration ttl) {
  parts.query.emplace_back("X-Amz-Algorithm", kAlgorithm);
  parts.query.emplace_back("X-Amz-Credential",
                           credentials.access_key_id + "/" + ScopeText(scope, now));
  parts.query.emplace_back("X-Amz-Date", DateHeader(now));
  parts.query.emplace_back("X-Amz-Expires", std::to_string(absl::ToInt64Seconds(ttl)));
  parts.query.emplace_back("X-Amz-SignedHeaders", SignedHeaders(parts.headers));
  if (!credentials.session_token.empty()) {
    parts.query.emplace_back("X-Amz-Security-Token", credentials.session_token);
  }
  parts.payload_sha256 = kUnsignedPayload;
  const std::string signature = Signature(parts, credentials, scope, now);
  return CanonicalQuery(parts.query) + "&X-Amz-Signature=" + signature;
}

std::string DateHeader(absl::Time time) {
  return absl::FormatTime("%Y%m%dT%H%M%SZ", time, absl::UTCTimeZone());
}

}  // namespace teq::objects
