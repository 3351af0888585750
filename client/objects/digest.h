#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace teq::objects {

/// The sha256 of bytes that come in parts. Not thread-safe.
class Sha256Digest {
 public:
  Sha256Digest();
  ~Sha256Digest();
  Sha256Digest(const Sha256Digest&) = delete;
  Sha256Digest& operator=(const Sha256Digest&) = delete;

  void Add(std::string_view bytes);

  /// The 32 bytes, or the same in hexadecimal. Ends the digest: one call of either.
  [[nodiscard]] std::string Raw();
  [[nodiscard]] std::string Hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

/// The HMAC-SHA256 of `text`, 32 bytes.
[[nodiscard]] std::string HmacSha256(std::string_view key, std::string_view text);

/// Bytes as lower-case hexadecimal digits, or in base 64.
[[nodiscard]] std::string Hex(std::string_view bytes);
[[nodiscard]] std::string Base64(std::string_view bytes);

/// The bytes of hexadecimal digits; empty where `hex` is none.
[[nodiscard]] std::string FromHex(std::string_view hex);

/// The md5 of bytes, 16 bytes. For comparing with what S3 calls an ETag, not for safety.
[[nodiscard]] std::string Md5(std::string_view bytes);

}  // namespace teq::objects
