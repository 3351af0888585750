#include "worker/engine/text/sentencepiece_protocol.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace teq::text {
namespace {

constexpr std::uint64_t kMaxFrame = std::uint64_t{1} << 36;

bool WriteAll(int socket, const char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t written = send(socket, data, size, MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    size -= static_cast<std::size_t>(written);
  }
  return true;
}

bool ReadAll(int socket, char* data, std::size_t size) {
  while (size > 0) {
    const ssize_t received = recv(socket, data, size, 0);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) return false;
    data += received;
    size -= static_cast<std::size_t>(received);
  }
  return true;
}

}  // namespace

bool WriteFrame(int socket, std::string_view frame) {
  const std::uint64_t size = frame.size();
  char header[sizeof(size)];
  std::memcpy(header, &size, sizeof(size));
  return WriteAll(socket, header, sizeof(header)) && WriteAll(socket, frame.data(), frame.size());
}

std::optional<std::string> ReadFrame(int socket) {
  std::uint64_t size = 0;
  char header[sizeof(size)];
  if (!ReadAll(socket, header, sizeof(header))) return std::nullopt;
  std::memcpy(&size, header, sizeof(size));
  if (size > kMaxFrame) return std::nullopt;
  std::string frame(size, '\0');
  if (!ReadAll(socket, frame.data(), frame.size())) return std::nullopt;
  return frame;
}

}  // namespace teq::text
