#include "client/objects/digest.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <array>

#include "fmt/format.h"

namespace teq::objects {
namespace {

using Buffer = std::array<unsigned char, EVP_MAX_MD_SIZE>;

std::string Bytes(const Buffer& buffer, unsigned int size) {
  return {buffer.begin(), buffer.begin() + size};
}

}  // namespace

struct Sha256Digest::Context {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> md{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

Sha256Digest::Sha256Digest() : context_(std::make_unique<Context>()) {
  EVP_DigestInit_ex(context_->md.get(), EVP_sha256(), nullptr);
}

Sha256Digest::~Sha256Digest() = default;

void Sha256Digest::Add(std::string_view bytes) {
  EVP_DigestUpdate(context_->md.get(), bytes.data(), bytes.size());
}

std::string Sha256Digest::Raw() {
  Buffer buffer{};
  unsigned int size = 0;
  EVP_DigestFinal_ex(context_->md.get(), buffer.data(), &size);
  return Bytes(buffer, size);
}

std::string Sha256Digest::Hex() { return objects::Hex(Raw()); }

std::string HmacSha256(std::string_view key, std::string_view text) {
  Buffer buffer{};
  unsigned int size = 0;
  ::HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), buffer.data(), &size);
  return Bytes(buffer, size);
}

std::string Hex(std::string_view bytes) {
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const char c : bytes) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return hex;
}

std::string Base64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');  // OpenSSL ends it with a NUL
  const int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                   reinterpret_cast<const unsigned char*>(bytes.data()),
                                   static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(size));
  return text;
}

std::string FromHex(std::string_view hex) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  if (hex.size() % 2 != 0) return {};
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    const int high = digit(hex[i]);
    const int low = digit(hex[i + 1]);
    if (high < 0 || low < 0) return {};
    bytes += static_cast<char>(high * 16 + low);
  }
  return bytes;
}

std::string Md5(std::string_view bytes) {
  Buffer buffer{};
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), buffer.data(), &size, EVP_md5(), nullptr);
  return Bytes(buffer, size);
}

}  // namespace teq::objects
