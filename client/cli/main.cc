#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>

#include "client/api/channel.h"
#include "client/cli/app.h"

namespace {

// What a signal handler may touch.
volatile std::sig_atomic_t interrupted = 0;

// The first Ctrl-C asks the watch to end, a second one ends the program.
void WatchForInterrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

int TerminalWidth() {
  struct winsize size {};
  for (const int file : {STDOUT_FILENO, STDERR_FILENO}) {
    if (ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  }
  return 80;
}

std::string EnvironmentTrace() {
  const char* value = std::getenv("TRACEPARENT");
  return value == nullptr ? "" : value;
}

}  // namespace

int main(int argc, char** argv) {
  bool handles_interrupt = false;
  const teq::cli::Terminal terminal{
      .in = std::cin,
      .out = std::cout,
      .err = std::cerr,
      .out_is_terminal = isatty(STDOUT_FILENO) == 1,
      .err_is_terminal = isatty(STDERR_FILENO) == 1,
      .width = TerminalWidth,
      .now = std::chrono::steady_clock::now,
      .sleep = [](std::chrono::milliseconds time) { std::this_thread::sleep_for(time); },
      .interrupted =
          [&handles_interrupt] {
            if (!handles_interrupt) WatchForInterrupt();
            handles_interrupt = true;
            return interrupted != 0;
          },
      .traceparent = EnvironmentTrace(),
  };
  const auto connect = [](const std::string& server) {
    const auto channel = teq::client::Connect(server);
    return teq::cli::Stubs{.jobs = teq::v1::JobService::NewStub(channel),
                           .artifacts = teq::v1::ArtifactService::NewStub(channel)};
  };
  const teq::cli::ExitCode code = teq::cli::RunTeqctl({argv + 1, argv + argc}, terminal, connect);
  if (code != teq::cli::kOk || std::cout.flush()) return code;
  std::cerr << "teqctl: WRITE_FAILED: the output cannot be written; is its disk full?\n";
  return teq::cli::kNotAsExpected;
}
