#include "worker/agent/engine_host.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "fmt/format.h"
#include "worker/agent/frame.h"

namespace teq::agent {
namespace {

constexpr int kNoAgent = 3;

// The commands of the socket, read with blocking calls.
class CommandReader {
 public:
  explicit CommandReader(int fd) : fd_(fd) {}

  // Nothing at the end of the stream, or where the stream is broken.
  std::optional<teq::v1::EngineCommand> Next() {
    while (true) {
      absl::StatusOr<std::optional<std::string>> frame = frames_.Next();
      if (!frame.ok()) return std::nullopt;
      if (*frame) {
        teq::v1::EngineCommand command;
        if (!command.ParseFromString(**frame)) return std::nullopt;
        return command;
      }
      std::array<char, 65536> buffer{};
      const ssize_t count = ::recv(fd_, buffer.data(), buffer.size(), 0);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return std::nullopt;
      frames_.Feed(std::string_view(buffer.data(), static_cast<std::size_t>(count)));
    }
  }

 private:
  int fd_;
  FrameReader frames_;
};

// Without an agent nobody wants the result: the process ends at once.
void Send(int fd, const teq::v1::EngineEvent& event) {
  const absl::StatusOr<std::string> frame = EncodeFrame(event);
  if (!frame.ok()) {
    fmt::print(stderr, "teq-worker engine: {}\n", frame.status().ToString());
    ::_exit(kNoAgent);
  }
  std::string_view rest = *frame;
  while (!rest.empty()) {
    const ssize_t count = ::send(fd, rest.data(), rest.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) ::_exit(kNoAgent);
    rest.remove_prefix(static_cast<std::size_t>(count));
  }
}

}  // namespace

int ServeEngine(int fd, const RunFunction& run, const CalibrateFunction& calibrate) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  CommandReader commands(fd);
  const std::optional<teq::v1::EngineCommand> first = commands.Next();
  if (first && first->has_calibrate()) {
    teq::v1::EngineEvent event;
    auto& calibrated = *event.mutable_calibrated();
    for (const auto& calibration : calibrate()) *calibrated.add_calibrations() = calibration;
    Send(fd, event);
    ::close(fd);
    return EXIT_SUCCESS;
  }
  if (!first || !first->has_start()) return kNoAgent;

  std::atomic<bool> cancelled = false;
  std::atomic<bool> finished = false;
  std::thread reader([&] {
    while (const std::optional<teq::v1::EngineCommand> command = commands.Next()) {
      if (command->has_cancel()) cancelled = true;
    }
    if (!finished) ::_exit(kNoAgent);
  });
  run(
      first->start(), [fd](const teq::v1::EngineEvent& event) { Send(fd, event); }, cancelled);
  finished = true;
  ::shutdown(fd, SHUT_RDWR);  // wakes the reader
  reader.join();
  ::close(fd);
  return EXIT_SUCCESS;
}

}  // namespace teq::agent
