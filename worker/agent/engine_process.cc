#include "worker/agent/engine_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "boost/asio/buffer.hpp"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/local/stream_protocol.hpp"
#include "boost/asio/posix/stream_descriptor.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/write.hpp"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/agent/engine_host.h"
#include "worker/agent/frame.h"
#include "worker/agent/line_reader.h"

namespace teq::agent {
namespace {

namespace asio = boost::asio;

// What is read at once of what the process prints; more waits, so that events get their turn.
constexpr int kOutputReads = 16;

absl::Status NotStarted(const std::string& program, int error_number) {
  return Error(absl::StatusCode::kInternal, "ENGINE_NOT_STARTED",
               fmt::format("{}: the engine process cannot be started: {}", program,
                           std::generic_category().message(error_number)));
}

// Starts `command` with `fd` as its descriptor 3, printing to `output`. The child is in a process
// group of its own, so that a terminal's Ctrl-C reaches the agent alone, which then decides.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command, int fd, int output) {
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // The pipe first: its descriptor may be the one that the socket takes.
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO);
  posix_spawn_file_actions_adddup2(&actions, fd, kEngineDescriptor);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addclosefrom_np(&actions, kEngineDescriptor + 1);

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  sigset_t defaults;
  sigemptyset(&defaults);
  for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGHUP}) sigaddset(&defaults, signal);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);

  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, command.front().c_str(), &actions, &attributes,
                                  arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return NotStarted(command.front(), error);
  return pid;
}

std::string_view LikelyCause(int signal) {
  if (signal == SIGKILL) return ", most often for lack of memory where nobody sent it";
  if (signal == SIGBUS) {
    return ": a file that it read became shorter, or the disk below it failed; leave a model's "
           "files alone while a job reads them";
  }
  return "";
}

std::string HowItEnded(int state) {
  if (!WIFSIGNALED(state)) return fmt::format("exited with code {}", WEXITSTATUS(state));
  const int signal = WTERMSIG(state);
  return fmt::format("was killed by signal {} ({}){}", signal, ::strsignal(signal),
                     LikelyCause(signal));
}

}  // namespace

class EngineProcess::Child : public std::enable_shared_from_this<Child> {
 public:
  Child(asio::io_context& io, asio::local::stream_protocol::socket socket,
        asio::posix::stream_descriptor output, pid_t pid, Handlers handlers)
      : io_(io),
        socket_(std::move(socket)),
        output_(std::move(output)),
        pid_(pid),
        handlers_(std::move(handlers)),
        lines_(handlers_.on_line) {}

  void Begin() {
    // A thread that only waits: the process stays a zombie, and its id its own, until Reap.
    waiter_ = std::thread([self = shared_from_this(), work = asio::make_work_guard(io_)] {
      siginfo_t info{};
      while (::waitid(P_PID, static_cast<id_t>(self->pid_), &info, WEXITED | WNOWAIT) != 0 &&
             errno == EINTR) {
      }
      asio::post(self->io_, [self] { self->Reap(); });
    });
    Read();
    output_.non_blocking(true);
    ReadOutput();
  }

  void Send(const teq::v1::EngineCommand& command) {
    absl::StatusOr<std::string> frame = EncodeFrame(command);
    if (!frame.ok()) {
      broken_ = std::string(frame.status().message());
      Kill();
      return;
    }
    outgoing_.push_back(*std::move(frame));
    if (outgoing_.size() == 1) Write();
  }

  [[nodiscard]] pid_t pid() const { return pid_; }

  void Kill() const {
    if (!ended_) ::kill(pid_, SIGKILL);
  }

  void Close() {
    handlers_ = {};
    Kill();
    if (waiter_.joinable()) waiter_.join();
    Reap();
    FinishOutput();
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

 private:
  void Read() {
    socket_.async_read_some(
        asio::buffer(buffer_),
        [self = shared_from_this()](const boost::system::error_code& error, std::size_t count) {
          if (error) {
            self->end_of_stream_ = true;
            self->TellExit();
            return;
          }
          self->frames_.Feed(std::string_view(self->buffer_.data(), count));
          self->TellEvents();
          self->Read();
        });
  }

  void TellEvents() {
    while (broken_.empty()) {
      const absl::StatusOr<std::optional<std::string>> frame = frames_.Next();
      if (frame.ok() && !*frame) return;
      teq::v1::EngineEvent event;
      if (!frame.ok() || !event.ParseFromString(**frame)) {
        broken_ = "sent a message that cannot be read";
        Kill();
        return;
      }
      // The handler may destroy this process, and with it the handlers.
      if (const auto handler = handlers_.on_event) handler(event);
    }
  }

  // Reads only what is there already, so that nothing is in flight when the process has ended.
  void ReadOutput() {
    output_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [self = shared_from_this()](const boost::system::error_code& error) {
                         if (!error && self->TakeOutput()) self->ReadOutput();
                       });
  }

  // False at the end of the stream.
  bool TakeOutput() {
    for (int i = 0; i < kOutputReads; ++i) {
      boost::system::error_code error;
      const std::size_t count = output_.read_some(asio::buffer(output_buffer_), error);
      if (error == asio::error::would_block) return true;
      if (error) return false;
      lines_.Feed(std::string_view(output_buffer_.data(), count));
    }
    return true;
  }

  // The process has ended; others that hold its output are not waited for.
  void FinishOutput() {
    if (!output_.is_open()) return;
    TakeOutput();
    lines_.Finish();
    boost::system::error_code ignored;
    output_.close(ignored);
  }

  void Write() {
    asio::async_write(
        socket_, asio::buffer(outgoing_.front()),
        [self = shared_from_this()](const boost::system::error_code& error, std::size_t) {
          // A process that does not read any more is ending; waiting tells how.
          self->outgoing_.pop_front();
          if (!error && !self->outgoing_.empty()) self->Write();
        });
  }

  void Reap() {
    if (ended_) return;
    // What the engine has started and left behind; the group is its own as long as it is a zombie.
    // For process 1 of a container such orphans are children, and nobody else waits for their end.
    ::kill(-pid_, SIGKILL);
    int state = 0;
    if (::waitpid(pid_, &state, 0) == pid_)
      ended_ = HowItEnded(state);
    else
      ended_ = "is gone";
    while (::waitpid(-pid_, nullptr, 0) > 0 || errno == EINTR) {
    }
    TellExit();
  }

  void TellExit() {
    if (!ended_ || !end_of_stream_) return;
    FinishOutput();
    const auto handler = std::exchange(handlers_, {}).on_exit;
    if (handler) handler(broken_.empty() ? *ended_ : fmt::format("{} and {}", broken_, *ended_));
  }

  asio::io_context& io_;
  asio::local::stream_protocol::socket socket_;
  asio::posix::stream_descriptor output_;
  pid_t pid_;
  Handlers handlers_;
  LineReader lines_;
  std::thread waiter_;
  std::array<char, 65536> buffer_{};
  std::array<char, 4096> output_buffer_{};
  FrameReader frames_;
  std::deque<std::string> outgoing_;
  std::string broken_;
  std::optional<std::string> ended_;
  bool end_of_stream_ = false;
};

absl::StatusOr<std::unique_ptr<EngineProcess>> EngineProcess::Start(
    asio::io_context& io, const std::vector<std::string>& command, const teq::v1::StartRun& start,
    Handlers handlers) {
  teq::v1::EngineCommand first;
  *first.mutable_start() = start;
  return StartWith(io, command, first, std::move(handlers));
}

absl::StatusOr<std::unique_ptr<EngineProcess>> EngineProcess::Calibrate(
    asio::io_context& io, const std::vector<std::string>& command, Handlers handlers) {
  teq::v1::EngineCommand first;
  first.mutable_calibrate();
  return StartWith(io, command, first, std::move(handlers));
}

absl::StatusOr<std::unique_ptr<EngineProcess>> EngineProcess::StartWith(
    asio::io_context& io, const std::vector<std::string>& command,
    const teq::v1::EngineCommand& first, Handlers handlers) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return NotStarted(command.front(), errno);
  }
  asio::local::stream_protocol::socket socket(io, asio::local::stream_protocol(), ends[0]);
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), O_CLOEXEC) != 0) {
    const int error = errno;
    ::close(ends[1]);
    return NotStarted(command.front(), error);
  }
  asio::posix::stream_descriptor output(io, pipe[0]);
  const absl::StatusOr<pid_t> pid = Spawn(command, ends[1], pipe[1]);
  ::close(ends[1]);
  ::close(pipe[1]);
  if (!pid.ok()) return pid.status();
  auto child =
      std::make_shared<Child>(io, std::move(socket), std::move(output), *pid, std::move(handlers));
  child->Begin();
  child->Send(first);
  return std::unique_ptr<EngineProcess>(new EngineProcess(std::move(child)));
}

EngineProcess::EngineProcess(std::shared_ptr<Child> child) : child_(std::move(child)) {}

EngineProcess::~EngineProcess() { child_->Close(); }

void EngineProcess::Cancel() {
  teq::v1::EngineCommand command;
  command.mutable_cancel();
  child_->Send(command);
}

void EngineProcess::Kill() { child_->Kill(); }

pid_t EngineProcess::pid() const { return child_->pid(); }

}  // namespace teq::agent
